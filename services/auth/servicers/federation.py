"""FederationService: identity providers, users' identities there, workload trusts."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from lepton.auth.v1 import federation_service_pb2 as pb
from lepton.auth.v1 import federation_service_pb2_grpc
from lepton.auth.v1.user_identity_pb2 import UserIdentity
from lepton.auth.v1.workload_trust_pb2 import WorkloadTrust
from lepton.errors import PermissionDenied
from lepton.names import UserIdentityName, WorkloadTrustName
from services.auth.oidc.identities import UserIdentities
from services.auth.oidc.providers import Providers
from services.auth.oidc.trusts import WorkloadTrusts
from services.auth.servicers.caller import the_caller


class FederationServicer(federation_service_pb2_grpc.FederationServiceServicer):
    """Serves federation."""

    def __init__(self, providers: Providers, identities: UserIdentities, trusts: WorkloadTrusts) -> None:
        self._providers = providers
        self._identities = identities
        self._trusts = trusts

    async def ListIdentityProviders(
        self, request: pb.ListIdentityProvidersRequest, context: Any
    ) -> pb.ListIdentityProvidersResponse:
        return pb.ListIdentityProvidersResponse(identity_providers=await self._providers.for_people())

    async def CreateUserIdentity(self, request: pb.CreateUserIdentityRequest, context: Any) -> UserIdentity:
        _whole()
        return await self._identities.create(request)

    async def ListUserIdentities(
        self, request: pb.ListUserIdentitiesRequest, context: Any
    ) -> pb.ListUserIdentitiesResponse:
        identities, token = await self._identities.page(request)
        return pb.ListUserIdentitiesResponse(user_identities=identities, next_page_token=token)

    async def DeleteUserIdentity(self, request: pb.DeleteUserIdentityRequest, context: Any) -> Empty:
        await self._identities.delete(UserIdentityName.parse(request.name))
        return Empty()

    async def CreateWorkloadTrust(self, request: pb.CreateWorkloadTrustRequest, context: Any) -> WorkloadTrust:
        _whole()
        return await self._trusts.create(request)

    async def ListWorkloadTrusts(
        self, request: pb.ListWorkloadTrustsRequest, context: Any
    ) -> pb.ListWorkloadTrustsResponse:
        trusts, token = await self._trusts.page(request)
        return pb.ListWorkloadTrustsResponse(workload_trusts=trusts, next_page_token=token)

    async def DeleteWorkloadTrust(self, request: pb.DeleteWorkloadTrustRequest, context: Any) -> Empty:
        await self._trusts.delete(WorkloadTrustName.parse(request.name))
        return Empty()


def _whole() -> None:
    """A token that is good for less must not make a way in that is good for more."""
    if the_caller().is_limited:
        raise PermissionDenied("LIMITED_TOKEN")
