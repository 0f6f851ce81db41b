"""Role bindings: who holds which role, in a project or in the whole organisation."""

from chassis.kv import Delete, mod, present
from lepton.auth.v1.access_service_pb2 import CreateRoleBindingRequest, ListRoleBindingsRequest
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import NotFound
from lepton.names import OrganisationRoleBindingName, ProjectName, RoleBindingName, ServiceAccountName, UserName
from services.auth import layout
from services.auth.audit import Deed
from services.auth.policy import Policy
from services.auth.roles import ROLES
from services.auth.store import Store


class Bindings:
    """Grants of roles."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    async def create(self, request: CreateRoleBindingRequest) -> RoleBinding:
        """Grant a role to principals that exist."""
        parent = parse_parent(request.parent)
        name = (
            RoleBindingName(parent.project, request.role_binding_id)
            if parent is not None
            else OrganisationRoleBindingName(request.role_binding_id)
        )
        binding = RoleBinding(role=request.role_binding.role, members=sorted(request.role_binding.members))

        async def check() -> None:
            if binding.role not in ROLES:
                raise NotFound("ROLE_NOT_FOUND", role=binding.role)
            if parent is not None:
                await self._store.entry(parent, layout.project(parent))
            for member in binding.members:
                await self._check_member(member)

        needs = [present(layout.project(parent))] if parent is not None else []
        created = await self._store.create(request, binding, name, layout.binding(name), needs=needs, check=check)
        await self._policy.reached(int(created.etag.strip('"')))
        return created

    async def page(self, request: ListRoleBindingsRequest) -> tuple[list[RoleBinding], str]:
        """The bindings of a project, or of the organisation."""
        return await self._store.page(layout.bindings(parse_parent(request.parent)), request, RoleBinding)

    async def delete(self, name: RoleBindingName | OrganisationRoleBindingName) -> None:
        """Take a role back."""

        async def write() -> int | None:
            entry = await self._store.entry(name, layout.binding(name))
            done = await self._store.audit.commit(
                Deed(resource=str(name)), [mod(entry.key, entry.mod_revision)], [Delete(entry.key)]
            )
            return done.revision if done.succeeded else None

        await self._policy.reached(await self._store.retry(write))

    async def _check_member(self, member: str) -> None:
        if member.startswith("users/"):
            user = UserName.parse(member, "role_binding.members")
            await self._store.entry(user, layout.user(user))
            return
        account = ServiceAccountName.parse(member, "role_binding.members")
        await self._store.entry(account, layout.service_account(account))


def parse_parent(parent: str) -> ProjectName | None:
    """The project whose bindings are meant; None for the organisation's."""
    return ProjectName.parse(parent, "parent") if parent else None


def parse_name(name: str) -> RoleBindingName | OrganisationRoleBindingName:
    """The name of a binding of either kind."""
    kind = RoleBindingName if name.startswith("projects/") else OrganisationRoleBindingName
    return kind.parse(name)
