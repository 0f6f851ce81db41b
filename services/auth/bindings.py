"""Role bindings: who holds which role, in a project or in the whole organisation."""

import re
from typing import Final

from chassis.call import current_call
from chassis.conditions import is_zone
from chassis.kv import Compare, Op, Put, mod, present
from lepton.auth.v1.access_service_pb2 import CreateRoleBindingRequest, ListRoleBindingsRequest
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import InvalidArgument
from lepton.names import (
    OrganisationRoleBindingName,
    ProjectName,
    RoleBindingName,
    RoleName,
    ServiceAccountName,
    UserName,
    not_found,
)
from lepton.policy.v1.condition_pb2 import Condition
from services.auth import layout
from services.auth.policy import Policy
from services.auth.roles import ROLES
from services.auth.store import Store, already_exists

# Collections and ids in turn; whether there is such a resource is for the service to know that owns it.
_RESOURCE: Final = re.compile(r"[a-z][A-Za-z]*/[a-z0-9][a-z0-9._-]*(/[a-z][A-Za-z]*/[a-z0-9][a-z0-9._-]*)*", re.ASCII)


class Bindings:
    """Grants of roles."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    async def create(self, request: CreateRoleBindingRequest) -> RoleBinding:
        """Grant a role to principals that exist."""
        parent, (name, binding) = parse_parent(request.parent), wanted(request)

        async def check() -> None:
            await self.check(parent, binding)

        needs, also = await self._role(RoleName.parse(binding.role, "role_binding.role"))
        if parent is not None:
            needs = [*needs, present(layout.project(parent))]
        created = await self._store.create(
            request, binding, name, layout.binding(name), needs=needs, also=also, check=check
        )
        await self._policy.reached(int(created.etag.strip('"')))
        return created

    async def preview(self, request: CreateRoleBindingRequest) -> RoleBinding:
        """The binding that a request would make; the errors are those of making it."""
        name, binding = wanted(request)
        await self._role(RoleName.parse(binding.role, "role_binding.role"))
        await self.check(parse_parent(request.parent), binding)
        if await self._store.kv.get(layout.binding(name)) is not None:
            raise already_exists(name)
        return binding

    async def stored(self, name: RoleBindingName | OrganisationRoleBindingName) -> str:
        """The key of a binding that exists."""
        return (await self._store.entry(name, layout.binding(name))).key

    async def page(self, request: ListRoleBindingsRequest) -> tuple[list[RoleBinding], str]:
        """The bindings of a project, or of the organisation."""
        return await self._store.page(layout.bindings(parse_parent(request.parent)), request, RoleBinding)

    async def delete(self, name: RoleBindingName | OrganisationRoleBindingName) -> int:
        """Take a role back; the answer is the revision from which on it is."""
        revision = await self._store.delete(name, lambda: self._store.entry(name, layout.binding(name)))
        await self._policy.reached(revision)
        return revision

    async def check(self, parent: ProjectName | None, binding: RoleBinding) -> None:
        """NotFound for a project or a principal that does not exist."""
        if parent is not None:
            await self._store.entry(parent, layout.project(parent))
        for member in binding.members:
            if member.startswith("projects/"):
                self._check_known(ServiceAccountName.parse(member, "role_binding.members"), parent)
            await check_principal(self._store, member, "role_binding.members")

    def _check_known(self, account: ServiceAccountName, parent: ProjectName | None) -> None:
        """NotFound for an account of another project that the caller may not know of, whether there is one or not."""
        call = current_call()
        caller = call.principal if call is not None else None
        if caller is None or account.parent == parent:
            return
        if not self._policy.permits(caller, "serviceAccounts.get", str(account)):
            raise not_found(account)

    async def _role(self, name: RoleName) -> tuple[list[Compare], list[Op]]:
        """What a binding of the role rests on; it writes the role anew, so that who deletes the role sees it."""
        if str(name) in ROLES:
            return [], []
        entry = await self._store.kv.get(layout.role(name))
        if entry is None:
            raise not_found(name)
        return [mod(entry.key, entry.mod_revision)], [Put(entry.key, entry.value)]


async def check_principal(store: Store, name: str, field: str) -> None:
    """NotFound for a user or service account that does not exist, InvalidArgument for what is neither."""
    if name.startswith("users/"):
        user = UserName.parse(name, field)
        await store.entry(user, layout.user(user))
        return
    account = ServiceAccountName.parse(name, field)
    await store.entry(account, layout.service_account(account))


def wanted(request: CreateRoleBindingRequest) -> tuple[RoleBindingName | OrganisationRoleBindingName, RoleBinding]:
    """The binding that a request asks for, and its name. Raises InvalidArgument naming the field that is wrong."""
    parent, given = parse_parent(request.parent), request.role_binding
    name = (
        RoleBindingName(parent.project, request.role_binding_id)
        if parent is not None
        else OrganisationRoleBindingName(request.role_binding_id)
    )
    for number, window in enumerate(given.condition.windows):
        if not is_zone(window.time_zone):
            bad = f"{window.time_zone[:64]!r} is no time zone of the IANA database; write for example Europe/Berlin"
            raise InvalidArgument("INVALID_FIELD", fields={f"role_binding.condition.windows[{number}].time_zone": bad})
    binding = RoleBinding(
        role=given.role,
        members=sorted(given.members),
        resource=checked_resource(given.resource, parent, "role_binding.resource"),
        condition=given.condition if given.condition != Condition() else None,
    )
    return name, binding


def parse_parent(parent: str) -> ProjectName | None:
    """The project whose bindings are meant; None for the organisation's."""
    return ProjectName.parse(parent, "parent") if parent else None


def checked_resource(resource: str, parent: ProjectName | None, field: str) -> str:
    """The resource, if it has a resource's name and lies in the parent; InvalidArgument naming the field otherwise."""
    if not resource:
        return ""
    if not _RESOURCE.fullmatch(resource):
        why = "must be a resource's whole name, for example projects/acme/models/digits"
    elif parent is not None and not resource.startswith(f"{parent}/"):
        why = f"must lie in {parent}, as its parent does"
    elif parent is None and resource.startswith("projects/"):
        why = "lies in a project: create the binding with that project as its parent"
    else:
        return resource
    raise InvalidArgument("INVALID_FIELD", fields={field: why})


def parse_name(name: str) -> RoleBindingName | OrganisationRoleBindingName:
    """The name of a binding of either kind."""
    kind = RoleBindingName if name.startswith("projects/") else OrganisationRoleBindingName
    return kind.parse(name)
