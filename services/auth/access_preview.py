"""What a write of roles or bindings would change, found out without writing."""

from operator import attrgetter
from typing import Any, Final

from chassis.access import PolicyReplica
from chassis.call import Principal
from chassis.method import Rule, rule_of
from lepton.auth.v1 import access_service_pb2 as pb
from lepton.names import RoleName
from services.auth import layout, permissions
from services.auth.access_effects import Access, Effect, effects
from services.auth.bindings import Bindings, parse_name, wanted
from services.auth.custom_roles import CustomRoles
from services.auth.policy import Policy, given_by

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["AccessService"]


class AccessPreview:
    """Applies a write to a copy of the policy and compares."""

    def __init__(self, bindings: Bindings, roles: CustomRoles, policy: Policy, access: PolicyReplica) -> None:
        self._bindings = bindings
        self._roles = roles
        self._policy = policy
        self._access = access

    async def effects(self, request: pb.PreviewAccessChangeRequest, caller: Principal) -> list[Effect]:
        """Who gains and who loses what; the errors are those of the write, and so is the permission that it needs."""
        kind = request.WhichOneof("change") or ""
        change: Any = getattr(request, kind)
        rule = rule_of_write(kind)
        self._access.require(caller, rule.permission, attrgetter(rule.resource)(change) if rule.resource else "")
        bindings, roles = dict(self._policy.bindings), dict(self._policy.roles)
        match kind:
            case "create_role_binding":
                made = await self._bindings.preview(change)
                bindings[layout.binding(wanted(change)[0])] = made
            case "delete_role_binding":
                bindings.pop(await self._bindings.stored(parse_name(change.name)), None)
            case "delete_role":
                await self._roles.check_deletable(RoleName.parse(change.name))
            case _:
                name, patterns = await self._roles.preview(change)
                roles[name] = patterns
        before = Access((given_by(*each) for each in self._policy.bindings.items()), self._policy.roles)
        after = Access((given_by(*each) for each in bindings.items()), roles)
        return effects(before, after, permissions.known())


def rule_of_write(kind: str) -> Rule:
    """The rule of the method that a kind of change is the request of."""
    asked = pb.PreviewAccessChangeRequest.DESCRIPTOR.fields_by_name[kind].message_type
    rule = next(rule_of(each) for each in _SERVICE.methods if each.input_type is asked)
    assert rule is not None
    return rule
