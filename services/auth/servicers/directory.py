"""DirectoryService: projects, users, service accounts, API keys."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.access import PolicyReplica
from lepton.auth.v1 import directory_service_pb2 as pb
from lepton.auth.v1 import directory_service_pb2_grpc
from lepton.auth.v1.principal_pb2 import ApiKey, ServiceAccount, User
from lepton.auth.v1.project_pb2 import Project
from lepton.errors import FailedPrecondition, PermissionDenied
from lepton.names import ApiKeyName, ProjectName, ServiceAccountName, UserName
from services.auth.api_keys import ApiKeys
from services.auth.projects import Projects
from services.auth.service_accounts import ServiceAccounts
from services.auth.servicers.caller import the_caller
from services.auth.users import Users


class DirectoryServicer(directory_service_pb2_grpc.DirectoryServiceServicer):
    """Serves the directory."""

    def __init__(
        self,
        *,
        projects: Projects,
        users: Users,
        service_accounts: ServiceAccounts,
        api_keys: ApiKeys,
        access: PolicyReplica,
    ) -> None:
        self._projects = projects
        self._users = users
        self._service_accounts = service_accounts
        self._api_keys = api_keys
        self._access = access

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Any) -> Project:
        return await self._projects.create(request, the_caller())

    async def GetProject(self, request: pb.GetProjectRequest, context: Any) -> Project:
        return await self._projects.get(ProjectName.parse(request.name))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Any) -> pb.ListProjectsResponse:
        projects, token = await self._projects.page(request, self._access.projects_of(the_caller()))
        return pb.ListProjectsResponse(projects=projects, next_page_token=token)

    async def DeleteProject(self, request: pb.DeleteProjectRequest, context: Any) -> Empty:
        await self._projects.delete(ProjectName.parse(request.name), request.etag)
        return Empty()

    async def CreateUser(self, request: pb.CreateUserRequest, context: Any) -> User:
        return await self._users.create(request)

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> User:
        return await self._users.get(UserName.parse(request.name))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        users, token = await self._users.page(request)
        return pb.ListUsersResponse(users=users, next_page_token=token)

    async def SetPassword(self, request: pb.SetPasswordRequest, context: Any) -> User:
        return await self._users.set_password(request)

    async def DisableUser(self, request: pb.DisableUserRequest, context: Any) -> User:
        name = UserName.parse(request.name)
        if str(name) == the_caller().name:
            raise FailedPrecondition("OWN_ACCOUNT", user=str(name))
        return await self._users.set_disabled(name, disabled=True)

    async def EnableUser(self, request: pb.EnableUserRequest, context: Any) -> User:
        return await self._users.set_disabled(UserName.parse(request.name), disabled=False)

    async def CreateServiceAccount(self, request: pb.CreateServiceAccountRequest, context: Any) -> ServiceAccount:
        return await self._service_accounts.create(request)

    async def GetServiceAccount(self, request: pb.GetServiceAccountRequest, context: Any) -> ServiceAccount:
        return await self._service_accounts.get(ServiceAccountName.parse(request.name))

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: Any
    ) -> pb.ListServiceAccountsResponse:
        accounts, token = await self._service_accounts.page(request)
        return pb.ListServiceAccountsResponse(service_accounts=accounts, next_page_token=token)

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> ApiKey:
        if the_caller().is_limited:  # a key that is good for less must not make one that is good for more
            raise PermissionDenied("LIMITED_TOKEN")
        return await self._api_keys.create(request)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        keys, token = await self._api_keys.page(request)
        return pb.ListApiKeysResponse(api_keys=keys, next_page_token=token)

    async def DeleteApiKey(self, request: pb.DeleteApiKeyRequest, context: Any) -> Empty:
        await self._api_keys.delete(ApiKeyName.parse(request.name))
        return Empty()
