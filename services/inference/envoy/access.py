"""Owns who may call which models at the gateway: the access policy, made into the data of its decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from chassis.access import ORGANISATION, PolicySnapshot
from chassis.conditions import NO_ATTRIBUTES
from chassis.permissions import Permissions
from lepton.errors import LeptonError, PermissionDenied, Unauthenticated

PREDICTS: Final = "deployments.get"
"""The permission that a call of a model needs, on its deployment, its model, its project or the organisation."""
_COLLECTIONS: Final = frozenset({"deployments", "models"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRules:
    """What the policy says about calls of models."""

    grants: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By principal: `*`, project ids, served models (`<project>.<deployment>`), and `projects/<p>/models/<m>`."""
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Likewise, where the principal has roles none of which predicts: it hears that it may not; all others hear that
    there is no such model."""
    revoked_tokens: frozenset[str] = frozenset()
    """Ids of tokens (`jti`)."""
    revoked_sessions: frozenset[str] = frozenset()
    revoked_principals: Mapping[str, float] = field(default_factory=dict)
    """By principal: tokens issued before this time (seconds since 1970) are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who holds a call open, by what its token says, and the model that it named."""

    principal: str
    token: str
    session: str
    issued: float
    """Seconds since 1970."""
    model: str


def standing(rules: CallRules, caller: Caller, above: str = "") -> LeptonError | None:
    """Why a call that was let in would not be let in any more; `above` is the model whose version is served.

    Decides as the gateway's own script does (`policy.lua`).
    """
    revoked_before = rules.revoked_principals.get(caller.principal)
    if (
        caller.token in rules.revoked_tokens
        or caller.session in rules.revoked_sessions
        or (revoked_before is not None and caller.issued < revoked_before)
    ):
        return Unauthenticated("TOKEN_REVOKED")
    project = caller.model.partition(".")[0]
    held = rules.grants.get(caller.principal, frozenset())
    if held.isdisjoint({ORGANISATION, project, caller.model, above} - {""}):
        return PermissionDenied("PERMISSION_DENIED", permission=PREDICTS, resource=caller.model)
    return None


def call_rules(snapshot: PolicySnapshot, minute: int) -> CallRules:
    """The part of a policy that the gateway decides by, in a minute (since 1970, UTC): Envoy itself knows no hours."""
    grants, known = _scopes(snapshot, minute)
    return CallRules(
        grants=grants,
        known=known,
        revoked_tokens=snapshot.revoked_tokens,
        revoked_sessions=snapshot.revoked_sessions,
        revoked_principals=snapshot.revoked_principals,
    )


def next_change(snapshot: PolicySnapshot, minute: int) -> int | None:
    """The next minute at which the rules may be others by the hours of a grant; None where no hours matter."""
    roles = _predicting(snapshot)
    windows = {
        window
        for binding in snapshot.bindings
        if binding.role in roles and binding.condition is not None and _scope(binding.scope)
        for window in binding.condition.windows
    }
    return min((window.next_change(minute) for window in windows), default=None)


def _scopes(snapshot: PolicySnapshot, minute: int) -> tuple[Mapping[str, frozenset[str]], Mapping[str, frozenset[str]]]:
    """By principal: where it may predict, and where it has roles that do not let it."""
    predicting = _predicting(snapshot)
    grants: dict[str, set[str]] = {}
    known: dict[str, set[str]] = {}
    for binding in snapshot.bindings:
        if not (scope := _scope(binding.scope)):
            continue
        # A call names no pool and no priority: of its conditions only the hours concern it.
        is_open = binding.condition is None or not binding.condition.unmet(NO_ATTRIBUTES, minute)
        held = grants if binding.role in predicting and is_open else known
        held.setdefault(binding.principal, set()).add(scope)
    return _frozen(grants), _frozen(known)


def _predicting(snapshot: PolicySnapshot) -> frozenset[str]:
    return frozenset(role for role, patterns in snapshot.roles.items() if Permissions(patterns).grants(PREDICTS))


def _frozen(scopes: Mapping[str, set[str]]) -> Mapping[str, frozenset[str]]:
    return {principal: frozenset(held) for principal, held in scopes.items()}


def _scope(scope: str) -> str:
    """A binding's scope as the gateway asks for it; empty when no call of a model lies in it."""
    if scope == ORGANISATION:
        return scope
    parts = scope.split("/")
    if len(parts) == 2 and parts[0] == "projects":
        return parts[1]
    if len(parts) == 4 and parts[0] == "projects" and parts[2] in _COLLECTIONS:
        return f"{parts[1]}.{parts[3]}" if parts[2] == "deployments" else scope
    return ""
