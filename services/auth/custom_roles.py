"""The organisation's own roles: sets of permissions that exist, kept beside the bindings that give them."""

from collections.abc import Iterable

from chassis.kv import Entry
from lepton.auth.v1.access_service_pb2 import CreateRoleRequest, UpdateRoleRequest
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.auth.v1.role_pb2 import Role
from lepton.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from lepton.names import RoleName
from services.auth import layout, permissions
from services.auth.policy import Policy
from services.auth.roles import ROLES
from services.auth.store import Store, resource_of


class CustomRoles:
    """Creates, reads, changes and deletes roles; the built-in ones can only be read."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    async def create(self, request: CreateRoleRequest) -> Role:
        """A new role; nobody holds it yet."""
        name = RoleName(request.role_id)
        if str(name) in ROLES:
            raise AlreadyExists("ROLE_ALREADY_EXISTS", None, role=str(name))
        role = Role(display_name=request.role.display_name, permissions=_checked(request.role.permissions))
        created = await self._store.create(request, role, name, layout.role(name))
        await self._policy.reached(int(created.etag.strip('"')))
        return created

    async def preview(self, request: CreateRoleRequest | UpdateRoleRequest) -> tuple[str, frozenset[str]]:
        """The name and the permissions that a role would have; the errors are those of writing it."""
        patterns = frozenset(_checked(request.role.permissions))
        if isinstance(request, UpdateRoleRequest):
            name = _changeable(RoleName.parse(request.role.name, "role.name"), "role.name")
            await self._store.entry(name, layout.role(name))
            return str(name), patterns
        name = RoleName(request.role_id)
        if str(name) in ROLES or await self._store.kv.get(layout.role(name)) is not None:
            raise AlreadyExists("ROLE_ALREADY_EXISTS", None, role=str(name))
        return str(name), patterns

    async def check_deletable(self, name: RoleName) -> Entry:
        """The role as it is stored; FailedPrecondition while a binding gives it."""
        _changeable(name, "name")
        # Who creates a binding writes the role too: a guard on this entry sees every binding made since.
        entry = await self._store.entry(name, layout.role(name))
        bindings = await self._store.kv.list(layout.BINDINGS)
        users = [RoleBinding.FromString(each.value) for each in bindings.entries]
        held_by = [each.name for each in users if each.role == str(name)]
        if held_by:
            raise FailedPrecondition("ROLE_IN_USE", role=str(name), binding=held_by[0], bindings=str(len(held_by)))
        return entry

    async def get(self, name: RoleName) -> Role:
        """A role."""
        if str(name) in ROLES:
            return _built_in(str(name))
        return await self._store.get(name, layout.role(name), Role)

    async def all(self) -> list[Role]:
        """The built-in roles, then the organisation's own."""
        own = await self._store.kv.list(layout.ROLES)
        return [_built_in(name) for name in ROLES] + [resource_of(entry, Role) for entry in own.entries]

    async def update(self, request: UpdateRoleRequest) -> Role:
        """Another set of permissions, at once, for everybody who holds the role."""
        name = _changeable(RoleName.parse(request.role.name, "role.name"), "role.name")
        wanted = _checked(request.role.permissions)

        def changed(role: Role) -> Role:
            role.display_name = request.role.display_name
            role.permissions[:] = wanted
            return role

        role, revision = await self._store.update(name, layout.role(name), Role, request.etag, changed)
        await self._policy.reached(revision)
        return role

    async def delete(self, name: RoleName) -> int:
        """Delete a role that no binding gives, so that a later role of its name is given to nobody unawares."""
        revision = await self._store.delete(name, lambda: self.check_deletable(name))
        await self._policy.reached(revision)
        return revision


def _built_in(name: str) -> Role:
    return Role(name=name, display_name=name.removeprefix("roles/"), permissions=sorted(ROLES[name]), built_in=True)


def _changeable(name: RoleName, field: str) -> RoleName:
    if str(name) in ROLES:
        raise InvalidArgument("INVALID_FIELD", fields={field: "is a built-in role; create one of your own"})
    return name


def _checked(wanted: Iterable[str]) -> list[str]:
    unknown = sorted(each for each in wanted if not permissions.is_pattern(each))
    if unknown:
        bad = f"{unknown[0][:128]!r} is no permission; ListPermissions names them, jobs.* means every verb"
        raise InvalidArgument("INVALID_FIELD", fields={"role.permissions": bad})
    return sorted(set(wanted))
