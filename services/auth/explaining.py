"""Why a permission is held or not: pure, from the bindings and roles of a policy, beside the decision itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from chassis.access import Decision, PolicyReplica
from chassis.call import Principal
from chassis.conditions import Attributes, Condition
from chassis.permissions import Permissions, scopes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A role that a binding gives to the principal, in a scope that counts for the resource."""

    binding: str
    role: str
    scope: str
    pattern: str = ""  # of the role, that matches the permission; empty where none does
    condition: str = ""  # in words; empty: none
    unmet: str = ""  # what of the condition the request does not meet, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What decided."""

    decision: Decision
    grants: tuple[Held, ...]
    withheld: tuple[Held, ...]  # whose conditions are not met
    lacking: tuple[Held, ...]
    scopes: tuple[str, ...]
    granting_roles: tuple[str, ...]
    limited_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A binding as an explanation needs it."""

    name: str
    role: str
    scope: str
    members: frozenset[str]
    condition: Condition | None = None


def explain(
    replica: PolicyReplica,
    bindings: Iterable[Given],
    roles: Mapping[str, frozenset[str]],
    principal: Principal,
    permission: str,
    resource: str,
    attributes: Attributes,
    minute: int,
) -> Explanation:
    """The decision is the replica's own: what is added cannot disagree with it.

    The minute (since 1970, UTC) is that which the decision is about.
    """
    scopes, attributes = scopes_of(resource), replace(attributes, minute=minute)
    held = [
        Held(
            binding=each.name,
            role=each.role,
            scope=each.scope,
            pattern=_match(roles.get(each.role, ()), permission),
            condition=str(each.condition or ""),
            unmet=each.condition.unmet(attributes, minute) if each.condition is not None else "",
        )
        for each in bindings
        if principal.name in each.members and each.scope in scopes
    ]
    held.sort(key=lambda each: (scopes.index(each.scope), each.binding))
    return Explanation(
        decision=replica.allowed(principal, permission, resource, attributes),
        grants=tuple(each for each in held if each.pattern and not each.unmet),
        withheld=tuple(each for each in held if each.pattern and each.unmet),
        lacking=tuple(each for each in held if not each.pattern),
        scopes=tuple(scopes),
        granting_roles=tuple(sorted(role for role, patterns in roles.items() if _match(patterns, permission))),
        limited_by=_limit(principal, permission, scopes),
    )


def _match(patterns: Iterable[str], permission: str) -> str:
    """The most particular pattern that matches; empty when none does."""
    matching = [each for each in patterns if Permissions((each,)).grants(permission)]
    return min(matching, key=lambda each: (each.count("*"), -len(each), each), default="")


def _limit(principal: Principal, permission: str, scopes: list[str]) -> str:
    if principal.within and principal.within not in scopes:
        return f"the token is good only on {principal.within}"
    if principal.permissions and not Permissions(principal.permissions).grants(permission):
        return f"the token is good only for {', '.join(principal.permissions)}"
    return ""
