"""Service accounts: programs of a project, which sign in with API keys."""

from chassis.kv import present
from lepton.auth.v1.directory_service_pb2 import CreateServiceAccountRequest, ListServiceAccountsRequest
from lepton.auth.v1.principal_pb2 import ServiceAccount
from lepton.names import ProjectName, ServiceAccountName
from services.auth import layout
from services.auth.store import Store


class ServiceAccounts:
    """The programs that work in projects."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, request: CreateServiceAccountRequest) -> ServiceAccount:
        """A new service account; it may do nothing until a role is granted to it."""
        project = ProjectName.parse(request.parent, "parent")
        name = ServiceAccountName(project.project, request.service_account_id)
        account = ServiceAccount(
            display_name=request.service_account.display_name, disabled=request.service_account.disabled
        )

        async def check() -> None:
            await self._store.entry(project, layout.project(project))

        return await self._store.create(
            request,
            account,
            name,
            layout.service_account(name),
            needs=[present(layout.project(project))],
            check=check,
        )

    async def get(self, name: ServiceAccountName) -> ServiceAccount:
        """A service account."""
        return await self._store.get(name, layout.service_account(name), ServiceAccount)

    async def page(self, request: ListServiceAccountsRequest) -> tuple[list[ServiceAccount], str]:
        """The service accounts of a project."""
        project = ProjectName.parse(request.parent, "parent")
        return await self._store.page(layout.service_accounts(project), request, ServiceAccount)
