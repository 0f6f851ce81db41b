"""A server of the chassis in this process, on real sockets with real TLS, with its authority, tokens and policy."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from chassis.access import Binding, PolicyReplica, PolicySnapshot
from chassis.identity import Identity
from chassis.peers import Peers
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Listener, Registration, Server
from chassis.stack import stack
from lepton import channel
from tests.harness.pki import Authority, TokenSigner

ROLES = {
    "roles/viewer": frozenset({"*.get", "*.list", "*.watch"}),
    "roles/developer": frozenset({"*.get", "*.list", "*.watch", "echoes.*", "jobs.*"}),
    "roles/admin": frozenset({"*"}),
}


@dataclass(slots=True, kw_only=True)
class Mesh:
    """What a test of a service holds."""

    name: str
    server: Server
    authority: Authority
    signer: TokenSigner
    access: PolicyReplica
    metrics: RpcMetrics
    identity: Identity
    snapshot: PolicySnapshot

    def client(self, subject: str | None = "users/alice", **options: Any) -> channel.Channel:
        """A client of the client port, signed in as `subject`; None is nobody."""
        token = options.pop("token", self.signer.token(subject) if subject is not None else None)
        return channel.connect(
            f"127.0.0.1:{self.server.ports['client']}",
            token=token,
            trust_bundle_pem=options.pop("trust_bundle_pem", self.authority.bundle_pem),
            server_name=self.name,
            **options,
        )

    def peer(self, path: str) -> Peers:
        """The channels of another member of the mesh, `service/<name>` or `agent/<node>`; an async context manager."""
        address = f"127.0.0.1:{self.server.ports['mesh']}"
        return Peers({self.name: address}, Identity(self.authority.issue(path)))

    def change_policy(self, **changes: Any) -> None:
        """Apply a policy that differs in this."""
        self.snapshot = replace(self.snapshot, revision=self.snapshot.revision + 1, **changes)
        self.access.apply(self.snapshot)


@asynccontextmanager
async def serving(
    *registrations: Registration,
    name: str = "trainer",
    bindings: Sequence[Binding] | None = None,
    access: PolicyReplica | None = None,
    **stack_options: Any,
) -> AsyncIterator[Mesh]:
    """Serve these, for the principals of DEFAULT_BINDINGS unless told otherwise."""
    authority, signer, metrics, access = Authority(), TokenSigner(), RpcMetrics(), access or PolicyReplica()
    snapshot = PolicySnapshot(
        revision=1,
        roles=ROLES,
        bindings=tuple(bindings) if bindings is not None else DEFAULT_BINDINGS,
        jwks=signer.jwks,
        issuer=signer.issuer,
        audience=signer.audience,
    )
    access.apply(snapshot)
    identity = Identity(authority.issue(f"service/{name}"))
    server = Server(
        name,
        registrations,
        listeners=[
            Listener(
                name="client", address="127.0.0.1:0", credentials=identity.server_credentials(require_client=False)
            ),
            Listener(name="mesh", address="127.0.0.1:0", credentials=identity.server_credentials(require_client=True)),
        ],
        middleware=stack(access, metrics, **stack_options),
        metrics=metrics,
        admin_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
    )
    async with server:
        yield Mesh(
            name=name,
            server=server,
            authority=authority,
            signer=signer,
            access=access,
            metrics=metrics,
            identity=identity,
            snapshot=snapshot,
        )


DEFAULT_BINDINGS = (
    Binding(principal="users/alice", role="roles/developer", scope="projects/acme"),
    Binding(principal="users/carol", role="roles/viewer", scope="projects/acme"),
    Binding(principal="users/bob", role="roles/developer", scope="projects/other"),
    Binding(principal="users/root", role="roles/admin", scope="*"),
)
