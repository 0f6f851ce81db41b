"""Gets certificates from the auth service: the first for a join token, the next ones over mutual TLS."""

from collections.abc import Awaitable, Callable

from chassis.credentials import Credentials
from lepton import channel
from lepton.auth.v1 import identity_service_pb2, identity_service_pb2_grpc

_TIMEOUT_S = 15.0


class AuthIssuer:
    """The auth service's IdentityService: its client port for the first certificate, its mesh port for renewals."""

    def __init__(self, *, auth_address: str, auth_mesh_address: str, trust_bundle_pem: bytes) -> None:
        self._address = auth_address
        self._mesh_address = auth_mesh_address
        self._bundle = trust_bundle_pem

    async def issue(self, join_token: str, csr_pem: bytes) -> tuple[bytes, bytes]:
        """A first certificate; waits for auth to come up, because services start in any order."""
        async with channel.connect(self._address, trust_bundle_pem=self._bundle, server_name="auth") as connection:
            stub = identity_service_pb2_grpc.IdentityServiceStub(connection)
            request = identity_service_pb2.IssueCertificateRequest(join_token=join_token, csr_pem=csr_pem.decode())
            answer = await stub.IssueCertificate(request, timeout=_TIMEOUT_S, wait_for_ready=True)
        return answer.certificate_chain_pem.encode(), answer.trust_bundle_pem.encode()

    async def renew(self, csr_pem: bytes, current: Credentials) -> tuple[bytes, bytes]:
        """The next certificate for the identity that the present one proves."""
        credentials = channel.mutual_credentials(current.key_pem, current.chain_pem, current.bundle_pem)
        async with channel.connect(self._mesh_address, with_credentials=credentials, server_name="auth") as connection:
            stub = identity_service_pb2_grpc.IdentityServiceStub(connection)
            request = identity_service_pb2.RenewCertificateRequest(csr_pem=csr_pem.decode())
            answer = await stub.RenewCertificate(request, timeout=_TIMEOUT_S, wait_for_ready=True)
        return answer.certificate_chain_pem.encode(), answer.trust_bundle_pem.encode()


def serving_issuer(auth: channel.Channel) -> Callable[[bytes], Awaitable[tuple[bytes, bytes]]]:
    """Asks auth, over the mesh, for certificates of the calling agent's model servers: the chain and the roots."""
    stub = identity_service_pb2_grpc.IdentityServiceStub(auth)

    async def issue(csr_pem: bytes) -> tuple[bytes, bytes]:
        request = identity_service_pb2.IssueServingCertificateRequest(csr_pem=csr_pem.decode())
        answer = await stub.IssueServingCertificate(request, timeout=_TIMEOUT_S)
        return answer.certificate_chain_pem.encode(), answer.trust_bundle_pem.encode()

    return issue
