"""Identities: certificates for the members of the mesh, the auth service's own among them."""

from datetime import timedelta
from typing import Final

from chassis.credentials import Credentials, replica_host
from chassis.logs import logger
from lepton.errors import PermissionDenied
from services.auth.authorities import Authorities
from services.auth.ca import SPIFFE_PATH, TRUST_DOMAIN, Issued, SigningRequest, Use
from services.auth.join_tokens import JoinTokens

log = logger(__name__)

OWN_PATH: Final = "service/auth"
_PREFIX: Final = f"spiffe://{TRUST_DOMAIN}/"


class Identities:
    """Issues first certificates for join tokens, and the next ones to whoever proves the present one."""

    def __init__(
        self, authorities: Authorities, join_tokens: JoinTokens, lifetime: timedelta, serving_lifetime: timedelta
    ) -> None:
        self._authorities = authorities
        self._join_tokens = join_tokens
        self._lifetime, self._serving_lifetime = lifetime, serving_lifetime

    @property
    def trust_bundle_pem(self) -> str:
        """The authorities to trust."""
        return self._authorities.trust_bundle_pem

    async def issue(self, join_token: str, csr_pem: str) -> Issued:
        """A first certificate. The request is read before the token is used up by it."""
        request = SigningRequest.parse(csr_pem)
        return self._sign(request, await self._join_tokens.redeem(join_token))

    def renew(self, peer: str, csr_pem: str) -> Issued:
        """The next certificate for the SPIFFE id that the connection proved; the request has no say in it."""
        path = peer.removeprefix(_PREFIX)
        if not SPIFFE_PATH.fullmatch(path):
            raise PermissionDenied("PEER_DENIED", peer=peer)
        return self._sign(SigningRequest.parse(csr_pem), path)

    def serving(self, peer: str, csr_pem: str) -> Issued:
        """A certificate for the model servers of the agent's node that the connection proved.

        It proves a server only and is none of the mesh's members, so that whoever breaks into a model server holds
        nothing that opens a door. It lives longer than the others: Triton reads it once, when it starts.
        """
        node = peer.removeprefix(f"{_PREFIX}agent/")
        if not SPIFFE_PATH.fullmatch(f"agent/{node}"):
            raise PermissionDenied("PEER_DENIED", peer=peer)
        key = SigningRequest.parse(csr_pem).key
        request = SigningRequest(key=key, hosts=(replica_host(node), "127.0.0.1", "localhost"))
        issued = self._authorities.signing.sign(request, f"replica/{node}", self._serving_lifetime, use=Use.SERVER)
        log.info("serving certificate issued", spiffe_id=issued.spiffe_id, until=issued.expires.isoformat())
        return issued

    def own(self, csr_pem: str) -> Issued:
        """A certificate for this service."""
        return self._sign(SigningRequest.parse(csr_pem), OWN_PATH)

    def _sign(self, request: SigningRequest, path: str) -> Issued:
        issued = self._authorities.signing.sign(request, path, self._lifetime)
        log.info("certificate issued", spiffe_id=issued.spiffe_id, until=issued.expires.isoformat())
        return issued


class LocalIssuer:
    """Gives the auth service its own certificates, in the way that chassis.identity asks for them."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def issue(self, join_token: str, csr_pem: bytes) -> tuple[bytes, bytes]:
        """The first certificate and the trust bundle."""
        return self._issue(csr_pem)

    async def renew(self, csr_pem: bytes, current: Credentials) -> tuple[bytes, bytes]:
        """The next certificate and the trust bundle."""
        return self._issue(csr_pem)

    def _issue(self, csr_pem: bytes) -> tuple[bytes, bytes]:
        issued = self._identities.own(csr_pem.decode())
        return issued.certificate_pem.encode(), self._identities.trust_bundle_pem.encode()
