"""`client.service_accounts`: programs that sign in."""

from lepton.auth.v1 import directory_service_pb2 as pb
from lepton.auth.v1.directory_service_pb2_grpc import DirectoryServiceStub
from lepton.auth.v1.principal_pb2 import ServiceAccount
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.names import ServiceAccountName


class ServiceAccounts(Group):
    """Creates, reads and lists service accounts."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = DirectoryServiceStub(calls.channel("auth"))

    async def create(
        self,
        service_account_id: str,
        *,
        project: str | None = None,
        display_name: str = "",
        request_id: str = "",
    ) -> ServiceAccount:
        """A new service account. AlreadyExists."""
        request = pb.CreateServiceAccountRequest(
            parent=self._scope.parent(project),
            service_account_id=service_account_id,
            service_account=ServiceAccount(display_name=display_name),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateServiceAccount, request)

    async def get(self, service_account: str) -> ServiceAccount:
        """A service account by id or name."""
        request = pb.GetServiceAccountRequest(name=self._scope.name(ServiceAccountName, service_account))
        return await self._calls.unary(self._stub.GetServiceAccount, request)

    def list(self, *, project: str | None = None, page_size: int = 0) -> Listing[ServiceAccount]:
        """The service accounts of a project."""
        parent = self._scope.parent(project)

        async def page(token: str) -> Page[ServiceAccount]:
            request = pb.ListServiceAccountsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListServiceAccounts, request)
            return answer.service_accounts, answer.next_page_token

        return Listing(page)
