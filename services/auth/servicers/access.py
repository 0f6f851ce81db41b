"""AccessService: role bindings, and what they permit."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.access import Decision, PolicyReplica
from lepton.auth.v1 import access_service_pb2 as pb
from lepton.auth.v1 import access_service_pb2_grpc
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from services.auth.bindings import Bindings, parse_name
from services.auth.servicers.caller import the_caller


class AccessServicer(access_service_pb2_grpc.AccessServiceServicer):
    """Serves role bindings."""

    def __init__(self, bindings: Bindings, access: PolicyReplica) -> None:
        self._bindings = bindings
        self._access = access

    async def CreateRoleBinding(self, request: pb.CreateRoleBindingRequest, context: Any) -> RoleBinding:
        return await self._bindings.create(request)

    async def ListRoleBindings(self, request: pb.ListRoleBindingsRequest, context: Any) -> pb.ListRoleBindingsResponse:
        bindings, token = await self._bindings.page(request)
        return pb.ListRoleBindingsResponse(role_bindings=bindings, next_page_token=token)

    async def DeleteRoleBinding(self, request: pb.DeleteRoleBindingRequest, context: Any) -> Empty:
        await self._bindings.delete(parse_name(request.name))
        return Empty()

    async def CheckPermissions(self, request: pb.CheckPermissionsRequest, context: Any) -> pb.CheckPermissionsResponse:
        caller, allowed = the_caller(), self._access.allowed
        held = [each for each in request.permissions if allowed(caller, each, request.resource) is Decision.ALLOWED]
        return pb.CheckPermissionsResponse(permissions=held, policy_revision=self._access.revision)
