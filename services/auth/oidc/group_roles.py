"""What a person's groups give: role bindings that come and go with the groups, apart from those made by hand."""

import hashlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from chassis.clock import Clock
from chassis.kv import KV, Compare, Delete, Op, Put, mod, present
from chassis.logs import logger
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.names import OrganisationRoleBindingName, ProjectName, RoleBindingName, RoleName, UserIdentityName
from services.auth import layout
from services.auth.oidc.settings import GroupGrant
from services.auth.roles import ROLES
from services.auth.store import stamp

log = logger(__name__)

_USER_CHARACTERS: Final = 32


@dataclass(slots=True)
class Changes:
    """What is to be written so that somebody holds what their groups give, and no more than that."""

    needs: dict[Compare, None] = field(default_factory=dict)
    puts: dict[str, Put] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    held: dict[str, str] = field(default_factory=dict)  # store key of a binding -> its name
    given: int = 0

    @property
    def ops(self) -> list[Op]:
        """The writes; none when nothing changes."""
        return [*self.puts.values(), *map(Delete, self.gone)]


class GroupRoles:
    """Compares what groups give with what they gave."""

    def __init__(self, kv: KV, clock: Clock) -> None:
        self._kv = kv
        self._clock = clock

    async def changes(
        self, name: UserIdentityName, grants: Sequence[GroupGrant], groups: Collection[str], before: Collection[str]
    ) -> Changes:
        """From the bindings of before (store keys) to those that the groups give now."""
        changes = Changes()
        for grant in dict.fromkeys(each for each in grants if each.group in groups):
            rests = await self._rests_on(grant)
            if rests is None:
                log.warning("group gives what is not there", role=grant.role, project=grant.project or "*")
                continue
            key, binding = self._binding(grant, name)
            changes.held[key] = binding.name
            if await self._kv.get(key) is not None:
                continue
            needs, writes = rests
            changes.needs.update(dict.fromkeys(needs))
            changes.puts.update({each.key: each for each in (Put(key, binding.SerializeToString()), *writes)})
            changes.given += 1
        changes.gone = tuple(sorted(set(before) - set(changes.held)))
        return changes

    async def _rests_on(self, grant: GroupGrant) -> tuple[list[Compare], list[Put]] | None:
        """What has to be so for the grant, as for a binding that is made by hand; None when it is not."""
        needs: list[Compare] = []
        writes: list[Put] = []
        if grant.project:
            project = layout.project(ProjectName(grant.project))
            if await self._kv.get(project) is None:
                return None
            needs.append(present(project))
        if grant.role not in ROLES:
            role = await self._kv.get(layout.role(RoleName.parse(grant.role)))
            if role is None:
                return None
            needs.append(mod(role.key, role.mod_revision))
            writes.append(Put(role.key, role.value))  # so that who deletes the role sees it
        return needs, writes

    def _binding(self, grant: GroupGrant, identity: UserIdentityName) -> tuple[str, RoleBinding]:
        """One binding for each identity, role and place, whichever of its groups give it."""
        mark = hashlib.sha256(f"{identity.identity} {grant.role} {grant.project}".encode()).hexdigest()[:16]
        binding_id = f"oidc-{identity.user[:_USER_CHARACTERS].rstrip('-')}-{mark}"
        name = RoleBindingName(grant.project, binding_id) if grant.project else OrganisationRoleBindingName(binding_id)
        binding = RoleBinding(uid=str(uuid.uuid4()), role=grant.role, members=[str(identity.parent)])
        stamp(binding, name, self._clock)
        return layout.binding(name), binding
