"""Sessions, projects, principals and what they may."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from lepton.auth.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    directory_service_pb2,
    directory_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from lepton.auth.v1.principal_pb2 import ApiKey, ServiceAccount, User
from lepton.auth.v1.project_pb2 import Project
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import Unauthenticated
from tests.harness.small_lepton.servicer import Servicer


class Sessions(Servicer, session_service_pb2_grpc.SessionServiceServicer):
    async def SignIn(self, request: Any, context: Any) -> Any:
        if request.WhichOneof("credential") == "password":
            user = request.password.user
            if self.world.passwords.get(user) != request.password.password:
                raise Unauthenticated("SIGN_IN_FAILED")
            return self.world.sign_in(user, refreshable=True)
        if request.api_key != "lpk_good":
            raise Unauthenticated("SIGN_IN_FAILED")
        return self.world.sign_in("projects/acme/serviceAccounts/robot", refreshable=False)

    async def RefreshSession(self, request: Any, context: Any) -> Any:
        principal = self.world.refresh_tokens.pop(request.refresh_token, "")
        if not principal:
            raise Unauthenticated("REFRESH_TOKEN_REFUSED")
        return self.world.sign_in(principal, refreshable=True)

    async def SignOut(self, request: Any, context: Any) -> Any:
        self.world.tokens.clear()
        return session_service_pb2.SignOutResponse()

    async def GetCaller(self, request: Any, context: Any) -> Any:
        metadata = dict(context.invocation_metadata())
        caller = session_service_pb2.Caller(principal=self.world.check(metadata["authorization"], "auth"))
        caller.grants.add(role="roles/admin", scope="*")
        return caller


class Directory(Servicer, directory_service_pb2_grpc.DirectoryServiceServicer):
    async def CreateProject(self, request: Any, context: Any) -> Any:
        request.project.name = f"projects/{request.project_id}"
        return self.world.once(request, lambda: self.world.table(Project).add(request.project))

    async def GetProject(self, request: Any, context: Any) -> Any:
        return self.world.table(Project).get(request.name)

    async def ListProjects(self, request: Any, context: Any) -> Any:
        page = self.world.table(Project).page("projects/", request, "projects")
        return directory_service_pb2.ListProjectsResponse(**page)

    async def DeleteProject(self, request: Any, context: Any) -> Any:
        self.world.table(Project).remove(request.name)
        return Empty()

    async def CreateUser(self, request: Any, context: Any) -> Any:
        request.user.name = f"users/{request.user_id}"
        self.world.passwords[request.user.name] = request.password
        return self.world.once(request, lambda: self.world.table(User).add(request.user))

    async def ListUsers(self, request: Any, context: Any) -> Any:
        return directory_service_pb2.ListUsersResponse(**self.world.table(User).page("users/", request, "users"))

    async def CreateServiceAccount(self, request: Any, context: Any) -> Any:
        request.service_account.name = f"{request.parent}/serviceAccounts/{request.service_account_id}"
        return self.world.once(request, lambda: self.world.table(ServiceAccount).add(request.service_account))

    async def CreateApiKey(self, request: Any, context: Any) -> Any:
        return ApiKey(name=f"{request.parent}/apiKeys/{request.api_key_id}", secret="lpk_good", prefix="lpk_g")


class Access(Servicer, access_service_pb2_grpc.AccessServiceServicer):
    async def CreateRoleBinding(self, request: Any, context: Any) -> Any:
        request.role_binding.name = f"{request.parent}/roleBindings/{request.role_binding_id}".lstrip("/")
        return self.world.once(request, lambda: self.world.table(RoleBinding).add(request.role_binding))

    async def ListRoleBindings(self, request: Any, context: Any) -> Any:
        page = self.world.table(RoleBinding).page(request.parent, request, "role_bindings")
        return access_service_pb2.ListRoleBindingsResponse(**page)

    async def CheckPermissions(self, request: Any, context: Any) -> Any:
        return access_service_pb2.CheckPermissionsResponse(permissions=request.permissions[:1])


class Identity(Servicer, identity_service_pb2_grpc.IdentityServiceServicer):
    async def CreateJoinToken(self, request: Any, context: Any) -> Any:
        return identity_service_pb2.JoinToken(token="lpj_once", spiffe_path=request.spiffe_path)
