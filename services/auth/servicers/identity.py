"""IdentityService: join tokens and certificates."""

from typing import Any

from chassis.access import PolicyReplica
from lepton.auth.v1 import identity_service_pb2 as pb
from lepton.auth.v1 import identity_service_pb2_grpc
from services.auth.authorities import Authorities
from services.auth.convert import authorities_to_proto, certificate_to_proto, join_token_to_proto
from services.auth.identities import Identities
from services.auth.join_tokens import LIFETIME, JoinTokens
from services.auth.servicers.caller import the_call, the_caller


class IdentityServicer(identity_service_pb2_grpc.IdentityServiceServicer):
    """Serves the mesh's certificate authority."""

    def __init__(
        self, identities: Identities, authorities: Authorities, join_tokens: JoinTokens, access: PolicyReplica
    ) -> None:
        self._identities = identities
        self._authorities = authorities
        self._join_tokens = join_tokens
        self._access = access

    async def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, context: Any) -> pb.JoinToken:
        if request.spiffe_path.startswith("service/"):
            # A service's identity can do more than any operator: only who could grant any role may admit one.
            self._access.require(the_caller(), "roleBindings.create", "")
        lifetime = request.ttl.ToTimedelta() if request.HasField("ttl") else LIFETIME
        return join_token_to_proto(await self._join_tokens.create(request.spiffe_path, lifetime), request.spiffe_path)

    async def IssueCertificate(self, request: pb.IssueCertificateRequest, context: Any) -> pb.Certificate:
        issued = await self._identities.issue(request.join_token, request.csr_pem)
        return certificate_to_proto(issued, self._identities.trust_bundle_pem)

    async def RenewCertificate(self, request: pb.RenewCertificateRequest, context: Any) -> pb.Certificate:
        issued = self._identities.renew(the_call().peer, request.csr_pem)
        return certificate_to_proto(issued, self._identities.trust_bundle_pem)

    async def IssueServingCertificate(self, request: pb.IssueServingCertificateRequest, context: Any) -> pb.Certificate:
        issued = self._identities.serving(the_call().peer, request.csr_pem)
        return certificate_to_proto(issued, self._identities.trust_bundle_pem)

    async def RotateAuthority(self, request: pb.RotateAuthorityRequest, context: Any) -> pb.Authorities:
        await self._authorities.rotate(request.overlap.ToTimedelta() if request.HasField("overlap") else None)
        return self._all()

    async def ListAuthorities(self, request: pb.ListAuthoritiesRequest, context: Any) -> pb.Authorities:
        return self._all()

    def _all(self) -> pb.Authorities:
        return authorities_to_proto(self._authorities.roots, self._authorities.now)

    async def GetTrustBundle(self, request: pb.GetTrustBundleRequest, context: Any) -> pb.TrustBundle:
        return pb.TrustBundle(pem=self._identities.trust_bundle_pem)
