"""AccessService: roles and their bindings, and what they permit."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.access import Decision, PolicyReplica
from chassis.call import POLICY_REVISION, Principal
from chassis.clock import Clock
from lepton.auth.v1 import access_service_pb2 as pb
from lepton.auth.v1 import access_service_pb2_grpc
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.auth.v1.role_pb2 import Role
from lepton.names import RoleName
from services.auth import permissions
from services.auth.access_preview import AccessPreview
from services.auth.asked import attributes_of, minute_of
from services.auth.bindings import Bindings, parse_name
from services.auth.convert import effects_to_proto, explanation_to_proto
from services.auth.custom_roles import CustomRoles
from services.auth.explaining import explain
from services.auth.policy import Policy
from services.auth.servicers.caller import the_caller


class AccessServicer(access_service_pb2_grpc.AccessServiceServicer):
    """Serves roles and role bindings."""

    def __init__(
        self, bindings: Bindings, roles: CustomRoles, policy: Policy, access: PolicyReplica, clock: Clock
    ) -> None:
        self._bindings = bindings
        self._roles = roles
        self._policy = policy
        self._access = access
        self._clock = clock
        self._preview = AccessPreview(bindings, roles, policy, access)

    async def CreateRoleBinding(self, request: pb.CreateRoleBindingRequest, context: Any) -> RoleBinding:
        return await self._bindings.create(request)

    async def ListRoleBindings(self, request: pb.ListRoleBindingsRequest, context: Any) -> pb.ListRoleBindingsResponse:
        bindings, token = await self._bindings.page(request)
        return pb.ListRoleBindingsResponse(role_bindings=bindings, next_page_token=token)

    async def DeleteRoleBinding(self, request: pb.DeleteRoleBindingRequest, context: Any) -> Empty:
        _tell(context, await self._bindings.delete(parse_name(request.name)))
        return Empty()

    async def CreateRole(self, request: pb.CreateRoleRequest, context: Any) -> Role:
        return await self._roles.create(request)

    async def GetRole(self, request: pb.GetRoleRequest, context: Any) -> Role:
        return await self._roles.get(RoleName.parse(request.name))

    async def ListRoles(self, request: pb.ListRolesRequest, context: Any) -> pb.ListRolesResponse:
        return pb.ListRolesResponse(roles=await self._roles.all())

    async def UpdateRole(self, request: pb.UpdateRoleRequest, context: Any) -> Role:
        return await self._roles.update(request)

    async def DeleteRole(self, request: pb.DeleteRoleRequest, context: Any) -> Empty:
        _tell(context, await self._roles.delete(RoleName.parse(request.name)))
        return Empty()

    async def ListPermissions(self, request: pb.ListPermissionsRequest, context: Any) -> pb.ListPermissionsResponse:
        return pb.ListPermissionsResponse(permissions=sorted(permissions.known()))

    async def CheckPermissions(self, request: pb.CheckPermissionsRequest, context: Any) -> pb.CheckPermissionsResponse:
        await self._policy.at_least(request.at_least_revision)
        caller, allowed, asked = the_caller(), self._access.allowed, request.attributes
        held = [
            each
            for each in request.permissions
            if allowed(caller, each, request.resource, attributes_of(asked, each)) is Decision.ALLOWED
        ]
        return pb.CheckPermissionsResponse(permissions=held, policy_revision=self._access.revision)

    async def PreviewAccessChange(
        self, request: pb.PreviewAccessChangeRequest, context: Any
    ) -> pb.PreviewAccessChangeResponse:
        effects = await self._preview.effects(request, the_caller())
        return effects_to_proto(effects, self._access.revision)

    async def ExplainPermission(
        self, request: pb.ExplainPermissionRequest, context: Any
    ) -> pb.ExplainPermissionResponse:
        await self._policy.at_least(request.at_least_revision)
        caller = who = the_caller()
        if request.principal and request.principal != caller.name:
            self._access.require(caller, "roleBindings.list", request.resource)
            who = Principal(name=request.principal)

        def is_listed(resource: str) -> bool:
            return self._access.allowed(caller, "roleBindings.list", resource) is Decision.ALLOWED

        explanation = explain(
            self._access,
            self._policy.given(is_listed),
            self._policy.roles,
            who,
            request.permission,
            request.resource,
            attributes_of(request.attributes, request.permission),
            minute_of(request.attributes, self._clock),
        )
        return explanation_to_proto(explanation, request.permission, self._access.revision)


def _tell(context: Any, revision: int) -> None:
    """The policy revision of a write whose answer has no place for it."""
    context.set_trailing_metadata(((POLICY_REVISION, str(revision)),))
