"""The real auth service in this process: real servers with TLS on free ports, over whatever store the test chooses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chassis.app import App
from chassis.clock import Clock, SystemClock
from chassis.config import IdentitySettings, Limits
from chassis.credentials import Credentials, signing_request
from chassis.kv import KV
from lepton import channel
from lepton.auth.v1 import (
    access_service_pb2_grpc,
    audit_service_pb2_grpc,
    compliance_service_pb2_grpc,
    directory_service_pb2_grpc,
    encryption_service_pb2_grpc,
    federation_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    secret_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from lepton.internal.v1 import (
    audit_feed_pb2_grpc,
    compliance_feed_pb2_grpc,
    policy_feed_pb2_grpc,
    project_keys_pb2_grpc,
    secrets_pb2_grpc,
)
from services.auth.assembly import assemble
from services.auth.audit import HEAD_KEY, AuditTrail
from services.auth.bootstrap import init
from services.auth.config import AuthConfig, Etcd, Lifetimes
from services.auth.join_tokens import JoinTokens
from services.auth.kek import Kek

Session = session_service_pb2.Session


class Stubs:
    """Everything that auth serves, over one channel."""

    def __init__(self, connection: channel.Channel) -> None:
        self.connection = connection
        self.sessions: Any = session_service_pb2_grpc.SessionServiceStub(connection)
        self.federation: Any = federation_service_pb2_grpc.FederationServiceStub(connection)
        self.directory: Any = directory_service_pb2_grpc.DirectoryServiceStub(connection)
        self.access: Any = access_service_pb2_grpc.AccessServiceStub(connection)
        self.identity: Any = identity_service_pb2_grpc.IdentityServiceStub(connection)
        self.audit: Any = audit_service_pb2_grpc.AuditServiceStub(connection)
        self.feed: Any = audit_feed_pb2_grpc.AuditFeedServiceStub(connection)
        self.secrets: Any = secret_service_pb2_grpc.SecretServiceStub(connection)
        self.delivery: Any = secrets_pb2_grpc.SecretDeliveryServiceStub(connection)
        self.encryption: Any = encryption_service_pb2_grpc.EncryptionServiceStub(connection)
        self.project_keys: Any = project_keys_pb2_grpc.ProjectKeyServiceStub(connection)
        self.policy: Any = policy_feed_pb2_grpc.PolicyFeedServiceStub(connection)
        self.compliance: Any = compliance_service_pb2_grpc.ComplianceServiceStub(connection)
        self.compliance_feed: Any = compliance_feed_pb2_grpc.ComplianceFeedServiceStub(connection)


@dataclass
class RunningAuth:
    """One replica of auth and ways to call it."""

    config: AuthConfig
    app: App
    kv: KV
    clock: Clock
    channels: AsyncExitStack
    stubs: dict[str, Stubs] = field(default_factory=dict)

    @property
    def password(self) -> str:
        """Of users/admin."""
        return self.config.bootstrap_password_file.read_text().strip()

    @property
    def bundle_pem(self) -> bytes:
        return Path(self.config.identity.trust_bundle).read_bytes()

    def ports(self) -> dict[str, int]:
        assert self.app.server is not None
        return self.app.server.ports

    async def client(self, token: str = "") -> Stubs:
        """Stubs of the client port, with this token or none."""
        if token not in self.stubs:
            address = f"127.0.0.1:{self.ports()['client']}"
            connection = channel.connect(
                address, token=token or None, trust_bundle_pem=self.bundle_pem, server_name="auth"
            )
            self.stubs[token] = Stubs(await self.channels.enter_async_context(connection))
        return self.stubs[token]

    async def peer(self, credentials: Credentials) -> Stubs:
        """Stubs of the mesh port, proved by a certificate."""
        proof = channel.mutual_credentials(credentials.key_pem, credentials.chain_pem, credentials.bundle_pem)
        address = f"127.0.0.1:{self.ports()['mesh']}"
        connection = channel.connect(address, with_credentials=proof, server_name="auth")
        return Stubs(await self.channels.enter_async_context(connection))

    async def sign_in(self, user: str = "users/admin", password: str = "") -> Session:
        credential = session_service_pb2.PasswordCredential(user=user, password=password or self.password)
        session: Session = await (await self.client()).sessions.SignIn(
            session_service_pb2.SignInRequest(password=credential)
        )
        return session

    async def admin(self) -> Stubs:
        """Stubs signed in as the bootstrap administrator."""
        return await self.client((await self.sign_in()).access_token)

    async def join_token(self, path: str) -> str:
        """As `python -m services.auth join-token` makes it."""
        trail = AuditTrail(self.kv, self.clock, Kek.load(self.config.kek_file).derive(HEAD_KEY))
        tokens = JoinTokens(self.kv, trail, self.clock)
        return (await tokens.create(path, actor="test", action="join-token")).token

    async def join(self, path: str, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")) -> Credentials:
        """A member of the mesh with its first certificate."""
        key_pem, csr_pem = signing_request(hosts)
        request = identity_service_pb2.IssueCertificateRequest(
            join_token=await self.join_token(path), csr_pem=csr_pem.decode()
        )
        answer = await (await self.client()).identity.IssueCertificate(request)
        return Credentials(
            key_pem=key_pem,
            chain_pem=answer.certificate_chain_pem.encode(),
            bundle_pem=answer.trust_bundle_pem.encode(),
        )


def auth_config(folder: Path, replica: str = "a", **changes: Any) -> AuthConfig:
    """A configuration with its files in a folder; replicas share all but their state."""
    return AuthConfig(
        issuer="https://lepton.test",
        audience="lepton",
        kek_file=folder / "kek",
        bootstrap_password_file=folder / "admin.password",
        etcd=Etcd(endpoints=()),
        password_memory_kib=1024,
        identity=IdentitySettings(state_dir=str(folder / f"state-{replica}"), trust_bundle=str(folder / "ca.pem")),
        limits=Limits(drain_s=0.5),
        **changes,
    )


@asynccontextmanager
async def running_auth(
    kv: KV,
    folder: Path,
    *,
    replica: str = "a",
    clock: Clock | None = None,
    lifetimes: Lifetimes | None = None,
    **changes: Any,
) -> AsyncIterator[RunningAuth]:
    """An initialised replica, serving."""
    config = replace(auth_config(folder, replica, lifetimes=lifetimes or Lifetimes()), **changes)
    clock = clock or SystemClock()
    await init(config, kv, clock)
    stopping = asyncio.Event()
    async with AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
        app = App(config, resources, clock)
        await assemble(config, app, kv, Kek.load(config.kek_file))
        serving = tasks.create_task(app.run(stopping), name="auth")
        try:
            while app.server is None or "metrics" not in app.server.ports:
                if serving.done():
                    await serving
                await asyncio.sleep(0)
            async with AsyncExitStack() as channels:
                yield RunningAuth(config=config, app=app, kv=kv, clock=clock, channels=channels)
        finally:
            stopping.set()
