"""`client.access`: roles, what is permitted and why, revocation, and the keys that sign tokens."""

from collections.abc import Collection, Sequence

from google.protobuf.duration_pb2 import Duration

from lepton.auth.v1 import access_service_pb2 as pb
from lepton.auth.v1 import identity_service_pb2 as identity_pb
from lepton.auth.v1 import session_service_pb2 as session_pb
from lepton.auth.v1.access_service_pb2_grpc import AccessServiceStub
from lepton.auth.v1.identity_service_pb2_grpc import IdentityServiceStub
from lepton.auth.v1.role_pb2 import Role
from lepton.auth.v1.session_service_pb2_grpc import SessionServiceStub
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.scope import Scope
from lepton.names import RoleName


class Access(Group):
    """Asks what is permitted, makes roles, and ends access before its time."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = AccessServiceStub(calls.channel("auth"))
        self._sessions = SessionServiceStub(calls.channel("auth"))
        self._identity = IdentityServiceStub(calls.channel("auth"))

    async def can(
        self,
        permission: str,
        resource: str = "",
        *,
        at_least_revision: int = 0,
        attributes: pb.RequestAttributes | None = None,
    ) -> bool:
        """Whether the caller holds a permission on a resource (empty: the organisation).

        `attributes` is what the request would ask for, where grants are on conditions; else no pool by name, and now.
        """
        request = pb.CheckPermissionsRequest(
            resource=resource,
            permissions=[permission],
            at_least_revision=at_least_revision,
            attributes=attributes,
        )
        return permission in (await self._calls.unary(self._stub.CheckPermissions, request)).permissions

    async def explain(
        self,
        permission: str,
        resource: str = "",
        *,
        principal: str = "",
        at_least_revision: int = 0,
        attributes: pb.RequestAttributes | None = None,
    ) -> pb.ExplainPermissionResponse:
        """Which bindings give a permission, or what is missing; of the caller, or of another principal."""
        request = pb.ExplainPermissionRequest(
            permission=permission,
            resource=resource,
            principal=principal,
            at_least_revision=at_least_revision,
            attributes=attributes,
        )
        return await self._calls.unary(self._stub.ExplainPermission, request)

    async def permissions(self) -> Sequence[str]:
        """Every permission that there is."""
        return (await self._calls.unary(self._stub.ListPermissions, pb.ListPermissionsRequest())).permissions

    async def roles(self) -> Sequence[Role]:
        """The built-in roles, then the organisation's own."""
        return (await self._calls.unary(self._stub.ListRoles, pb.ListRolesRequest())).roles

    async def role(self, role: str) -> Role:
        """A role by id or name."""
        return await self._calls.unary(self._stub.GetRole, pb.GetRoleRequest(name=_name(role)))

    async def create_role(
        self, role_id: str, permissions: Collection[str], *, display_name: str = "", request_id: str = ""
    ) -> Role:
        """A role of the organisation's own. AlreadyExists."""
        request = pb.CreateRoleRequest(
            role_id=role_id,
            role=Role(permissions=permissions, display_name=display_name),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateRole, request)

    async def update_role(
        self, role: str, permissions: Collection[str], *, display_name: str = "", etag: str = ""
    ) -> Role:
        """Other permissions for everybody who holds the role."""
        changed = Role(name=_name(role), permissions=permissions, display_name=display_name)
        return await self._calls.unary(self._stub.UpdateRole, pb.UpdateRoleRequest(role=changed, etag=etag))

    async def preview_update_role(self, role: str, permissions: Collection[str]) -> pb.PreviewAccessChangeResponse:
        """Who would gain and lose what by `update_role`; nothing is written."""
        wanted = pb.UpdateRoleRequest(role=Role(name=_name(role), permissions=permissions))
        request = pb.PreviewAccessChangeRequest(update_role=wanted)
        return await self._calls.unary(self._stub.PreviewAccessChange, request)

    async def delete_role(self, role: str) -> None:
        """Delete a role that no binding gives. FailedPrecondition."""
        await self._calls.unary(self._stub.DeleteRole, pb.DeleteRoleRequest(name=_name(role)))

    async def revoke(self, *, token_id: str = "", session: str = "", principal: str = "") -> int:
        """Refuse a token, a session's tokens, or all of a principal's; the answer is the policy revision that does.

        A principal is a user, a service account, or a member of the mesh by its SPIFFE id: its certificates of now.
        """
        request = session_pb.RevokeAccessRequest()
        for name, value in (("token_id", token_id), ("session", session), ("principal", principal)):
            if value:
                setattr(request, name, value)
        return (await self._calls.unary(self._sessions.RevokeAccess, request)).policy_revision

    async def signing_keys(self) -> session_pb.SigningKeys:
        """The keys that access tokens are verified with, oldest first."""
        return await self._calls.unary(self._sessions.ListSigningKeys, session_pb.ListSigningKeysRequest())

    async def rotate_signing_key(self, *, distrust_former: bool = False) -> session_pb.SigningKeys:
        """A new key to sign tokens with; the former are distrusted at once only when they leaked."""
        request = session_pb.RotateSigningKeyRequest(distrust_former=distrust_former)
        return await self._calls.unary(self._sessions.RotateSigningKey, request)

    async def authorities(self) -> identity_pb.Authorities:
        """The roots that members of the mesh trust; the one that signs is first."""
        return await self._calls.unary(self._identity.ListAuthorities, identity_pb.ListAuthoritiesRequest())

    async def rotate_authority(self, *, overlap_s: int = 0) -> identity_pb.Authorities:
        """A new root, which signs after the overlap (0 = twice as long as certificates live). FailedPrecondition."""
        overlap = Duration(seconds=overlap_s) if overlap_s else None
        request = identity_pb.RotateAuthorityRequest(overlap=overlap)
        return await self._calls.unary(self._identity.RotateAuthority, request)


def _name(role: str) -> str:
    return str(RoleName.parse(role) if "/" in role else RoleName(role))
