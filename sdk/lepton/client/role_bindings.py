"""`client.role_bindings`: who holds which role where."""

from collections.abc import Collection

from lepton.auth.v1 import access_service_pb2 as pb
from lepton.auth.v1.access_service_pb2_grpc import AccessServiceStub
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.policy.v1.condition_pb2 import Condition

ORGANISATION = "*"


class RoleBindings(Group):
    """Grants roles and takes them back; `project="*"` means the whole organisation."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = AccessServiceStub(calls.channel("auth"))

    async def create(
        self,
        role_binding_id: str,
        role: str,
        members: Collection[str],
        *,
        project: str | None = None,
        resource: str = "",
        condition: Condition | None = None,
        request_id: str = "",
    ) -> RoleBinding:
        """Grant a role (`developer` or `roles/developer`) to principals, by their whole names. AlreadyExists.

        `resource` is the whole name of the one resource on which it holds, `condition` what it depends on.
        """
        request = pb.CreateRoleBindingRequest(
            parent=self._parent(project),
            role_binding_id=role_binding_id,
            role_binding=_binding(role, members, resource, condition),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateRoleBinding, request)

    async def preview(
        self,
        role_binding_id: str,
        role: str,
        members: Collection[str],
        *,
        project: str | None = None,
        resource: str = "",
        condition: Condition | None = None,
    ) -> pb.PreviewAccessChangeResponse:
        """Who would gain what by `create`; nothing is written. The errors are those of `create`."""
        wanted = pb.CreateRoleBindingRequest(
            parent=self._parent(project),
            role_binding_id=role_binding_id,
            role_binding=_binding(role, members, resource, condition),
        )
        request = pb.PreviewAccessChangeRequest(create_role_binding=wanted)
        return await self._calls.unary(self._stub.PreviewAccessChange, request)

    def list(self, *, project: str | None = None, page_size: int = 0) -> Listing[RoleBinding]:
        """The bindings of a project."""
        parent = self._parent(project)

        async def page(token: str) -> Page[RoleBinding]:
            request = pb.ListRoleBindingsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListRoleBindings, request)
            return answer.role_bindings, answer.next_page_token

        return Listing(page)

    async def delete(self, name: str) -> None:
        """Take a role back, by the binding's whole name."""
        await self._calls.unary(self._stub.DeleteRoleBinding, pb.DeleteRoleBindingRequest(name=name))

    async def preview_delete(self, name: str) -> pb.PreviewAccessChangeResponse:
        """Who would lose what by `delete`; nothing is written."""
        wanted = pb.DeleteRoleBindingRequest(name=name)
        request = pb.PreviewAccessChangeRequest(delete_role_binding=wanted)
        return await self._calls.unary(self._stub.PreviewAccessChange, request)

    async def permissions(self, resource: str, asked: Collection[str]) -> frozenset[str]:
        """Those of the permissions asked about that the caller holds on a resource (empty: the organisation)."""
        request = pb.CheckPermissionsRequest(resource=resource, permissions=asked)
        return frozenset((await self._calls.unary(self._stub.CheckPermissions, request)).permissions)

    def _parent(self, project: str | None) -> str:
        return "" if project == ORGANISATION else self._scope.parent(project)


def _binding(role: str, members: Collection[str], resource: str, condition: Condition | None) -> RoleBinding:
    name = role if role.startswith("roles/") else f"roles/{role}"
    return RoleBinding(role=name, members=members, resource=resource, condition=condition)
