"""The mesh's own authority, without its service: members' identities and the certificates of model servers."""

from datetime import timedelta
from pathlib import Path

from chassis.clock import Clock, SystemClock
from chassis.credentials import Credentials, replica_host, signing_request
from chassis.identity import Identity
from services.agent.triton_tls import ServingCertificate
from services.auth.ca import Authority, SigningRequest, Use

HOSTS = ("localhost", "127.0.0.1")


class MeshCa:
    """One root, or several that are trusted, of which one signs."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.roots = [Authority.create(SystemClock())]
        self.signing = self.roots[0]
        self.serving_life = timedelta(days=7)

    @property
    def bundle_pem(self) -> bytes:
        """What members trust."""
        return "".join(each.trust_bundle_pem for each in self.roots).encode()

    def issue(
        self,
        path: str,
        *,
        hosts: tuple[str, ...] = HOSTS,
        use: Use = Use.BOTH,
        lifetime: timedelta = timedelta(hours=1),
    ) -> Credentials:
        """Credentials of a member, by the root that signs."""
        key_pem, csr_pem = signing_request(
            (*hosts, *((path.rpartition("/")[2],) if path.startswith("service") else ()))
        )
        issued = self.signing.sign(SigningRequest.parse(csr_pem.decode()), path, lifetime, use=use)
        return Credentials(key_pem=key_pem, chain_pem=issued.certificate_pem.encode(), bundle_pem=self.bundle_pem)

    def publish_root(self) -> None:
        """Another root is trusted; it does not sign."""
        self.roots.append(Authority.create(SystemClock()))

    def sign_with_newest(self) -> None:
        """The newest root signs from now on."""
        self.signing = self.roots[-1]

    def forget_former_roots(self) -> None:
        """The newest root alone is trusted."""
        del self.roots[:-1]

    def member(self, path: str) -> Identity:
        """A member of the mesh."""
        return Identity(self.issue(path))

    def serving(self, member: Identity, node: str, folder: Path) -> ServingCertificate:
        """The certificates of a node's model servers, as auth issues them."""

        async def issue(csr_pem: bytes) -> tuple[bytes, bytes]:
            key = SigningRequest.parse(csr_pem.decode()).key
            request = SigningRequest(key=key, hosts=(replica_host(node), *HOSTS))
            issued = self.signing.sign(request, f"replica/{node}", self.serving_life, use=Use.SERVER)
            return issued.certificate_pem.encode(), self.bundle_pem

        return ServingCertificate(member=member, issue=issue, node=node, folder=folder, clock=self.clock)
