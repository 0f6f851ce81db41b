"""Who gains and who loses which permissions between two policies; pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from chassis.permissions import Permissions, scopes_of
from services.auth.explaining import Given

_ALWAYS = frozenset({""})


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What changes for a principal in a scope, under one condition (in words; empty: always)."""

    principal: str
    scope: str
    condition: str
    gained: tuple[str, ...]
    lost: tuple[str, ...]


class Access:
    """Bindings and roles, asked who holds what where and on which conditions."""

    def __init__(self, bindings: Iterable[Given], roles: Mapping[str, frozenset[str]]) -> None:
        self._roles = {name: Permissions(patterns) for name, patterns in roles.items()}
        self._patterns = roles
        self._by_principal: dict[str, list[Given]] = {}
        for each in bindings:
            for member in each.members:
                self._by_principal.setdefault(member, []).append(each)

    def held(self, principal: str, scope: str) -> set[tuple[str, frozenset[str], str]]:
        """The roles that a principal has in a scope itself: name, patterns, condition."""
        return {
            (each.role, self._patterns.get(each.role, frozenset()), str(each.condition or ""))
            for each in self._by_principal.get(principal, ())
            if each.scope == scope
        }

    def places(self) -> set[tuple[str, str]]:
        """Every principal and scope of a binding."""
        return {(principal, each.scope) for principal, held in self._by_principal.items() for each in held}

    def conditions(self, principal: str, scope: str, permission: str) -> frozenset[str]:
        """The conditions, any of which gives the permission there; one that is empty leaves no others."""
        around = scopes_of("" if scope == "*" else scope)
        found = frozenset(
            str(each.condition or "")
            for each in self._by_principal.get(principal, ())
            if each.scope in around and each.role in self._roles and self._roles[each.role].grants(permission)
        )
        return _ALWAYS if "" in found else found


def effects(before: Access, after: Access, permissions: Collection[str]) -> list[Effect]:
    """What changes from one to the other, by principal, scope and condition.

    A grant that is narrowed from always to a condition is lost always and gained on the condition.
    """
    return [
        effect
        for principal, scope in sorted(before.places() | after.places())
        if before.held(principal, scope) != after.held(principal, scope)
        for effect in _of(principal, scope, before, after, permissions)
    ]


def _of(principal: str, scope: str, before: Access, after: Access, permissions: Collection[str]) -> Iterator[Effect]:
    gained: dict[str, list[str]] = {}
    lost: dict[str, list[str]] = {}
    for permission in sorted(permissions):
        was, will = (each.conditions(principal, scope, permission) for each in (before, after))
        for condition in will - was:
            gained.setdefault(condition, []).append(permission)
        for condition in was - will if will != _ALWAYS else ():
            lost.setdefault(condition, []).append(permission)
    for condition in sorted({*gained, *lost}):
        yield Effect(
            principal=principal,
            scope=scope,
            condition=condition,
            gained=tuple(gained.get(condition, ())),
            lost=tuple(lost.get(condition, ())),
        )
