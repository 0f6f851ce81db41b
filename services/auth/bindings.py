"""Role bindings: who holds which role, in a project or in the whole organisation."""

import re
from typing import Final

from chassis.kv import Compare, Delete, Op, Put, mod, present
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
from services.auth import layout
from services.auth.audit import Deed
from services.auth.policy import Policy
from services.auth.roles import ROLES
from services.auth.store import Store

# Collections and ids in turn; whether there is such a resource is for the service to know that owns it.
_RESOURCE: Final = re.compile(r"[a-z][A-Za-z]*/[a-z0-9][a-z0-9._-]*(/[a-z][A-Za-z]*/[a-z0-9][a-z0-9._-]*)*", re.ASCII)


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
        binding = RoleBinding(
            role=request.role_binding.role,
            members=sorted(request.role_binding.members),
            resource=checked_resource(request.role_binding.resource, parent, "role_binding.resource"),
        )

        async def check() -> None:
            if parent is not None:
                await self._store.entry(parent, layout.project(parent))
            for member in binding.members:
                await self._check_member(member)

        needs, also = await self._role(RoleName.parse(binding.role, "role_binding.role"))
        if parent is not None:
            needs = [*needs, present(layout.project(parent))]
        created = await self._store.create(
            request, binding, name, layout.binding(name), needs=needs, also=also, check=check
        )
        await self._policy.reached(int(created.etag.strip('"')))
        return created

    async def page(self, request: ListRoleBindingsRequest) -> tuple[list[RoleBinding], str]:
        """The bindings of a project, or of the organisation."""
        return await self._store.page(layout.bindings(parse_parent(request.parent)), request, RoleBinding)

    async def delete(self, name: RoleBindingName | OrganisationRoleBindingName) -> int:
        """Take a role back; the answer is the revision from which on it is."""

        async def write() -> int | None:
            entry = await self._store.entry(name, layout.binding(name))
            done = await self._store.audit.commit(
                Deed(resource=str(name)), [mod(entry.key, entry.mod_revision)], [Delete(entry.key)]
            )
            return done.revision if done.succeeded else None

        revision = await self._store.retry(write)
        await self._policy.reached(revision)
        return revision

    async def _role(self, name: RoleName) -> tuple[list[Compare], list[Op]]:
        """What a binding of the role rests on; it writes the role anew, so that who deletes the role sees it."""
        if str(name) in ROLES:
            return [], []
        entry = await self._store.kv.get(layout.role(name))
        if entry is None:
            raise not_found(name)
        return [mod(entry.key, entry.mod_revision)], [Put(entry.key, entry.value)]

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
