"""`client.federation`: identity providers, who users are there, and the workloads that service accounts trust."""

from lepton.auth.v1 import federation_service_pb2 as pb
from lepton.auth.v1.federation_service_pb2_grpc import FederationServiceStub
from lepton.auth.v1.user_identity_pb2 import UserIdentity
from lepton.auth.v1.workload_trust_pb2 import WorkloadTrust
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.names import ServiceAccountName, UserIdentityName, UserName, WorkloadTrustName


class Federation(Group):
    """Links and trusts. Signing in with them is `client.sign_in`."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = FederationServiceStub(calls.channel("auth"))

    async def providers(self) -> list[pb.IdentityProvider]:
        """The providers with which people sign in; needs no session."""
        request = pb.ListIdentityProvidersRequest()
        answer = await self._calls.public(lambda: self._stub.ListIdentityProviders(request))
        return list(answer.identity_providers)

    async def link(self, user: str, *, provider: str, subject: str, request_id: str = "") -> UserIdentity:
        """Whoever has this subject at the provider signs in as the user from now on. AlreadyExists."""
        request = pb.CreateUserIdentityRequest(
            parent=_user(user),
            user_identity=UserIdentity(provider=provider, subject=subject),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateUserIdentity, request)

    def identities(self, user: str, *, page_size: int = 0) -> Listing[UserIdentity]:
        """Who a user is at which providers."""
        parent = _user(user)

        async def page(token: str) -> Page[UserIdentity]:
            request = pb.ListUserIdentitiesRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListUserIdentities, request)
            return answer.user_identities, answer.next_page_token

        return Listing(page)

    async def unlink(self, identity: str) -> None:
        """Take a link away, by its whole name, with the roles that it gave; the user is signed out everywhere."""
        request = pb.DeleteUserIdentityRequest(name=str(UserIdentityName.parse(identity)))
        await self._calls.unary(self._stub.DeleteUserIdentity, request)

    async def trust(
        self,
        service_account: str,
        workload_trust_id: str,
        *,
        issuer: str,
        subject: str,
        audience: str,
        display_name: str = "",
        request_id: str = "",
    ) -> WorkloadTrust:
        """Let holders of ID tokens with this issuer, subject (`*`, `**`) and audience sign in as a service account."""
        request = pb.CreateWorkloadTrustRequest(
            parent=self._scope.name(ServiceAccountName, service_account),
            workload_trust_id=workload_trust_id,
            workload_trust=WorkloadTrust(issuer=issuer, subject=subject, audience=audience, display_name=display_name),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateWorkloadTrust, request)

    def trusts(self, service_account: str, *, page_size: int = 0) -> Listing[WorkloadTrust]:
        """Whose tokens sign in as a service account."""
        parent = self._scope.name(ServiceAccountName, service_account)

        async def page(token: str) -> Page[WorkloadTrust]:
            request = pb.ListWorkloadTrustsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListWorkloadTrusts, request)
            return answer.workload_trusts, answer.next_page_token

        return Listing(page)

    async def untrust(self, workload_trust: str) -> None:
        """Delete a trust, by its whole name."""
        request = pb.DeleteWorkloadTrustRequest(name=str(WorkloadTrustName.parse(workload_trust)))
        await self._calls.unary(self._stub.DeleteWorkloadTrust, request)


def _user(user: str) -> str:
    return str(UserName.parse(user) if "/" in user else UserName(user))
