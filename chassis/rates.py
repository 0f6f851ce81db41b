"""How often each method may be called: the kinds of methods, and what one caller may have of each kind.

The kind follows from the method's proto. What a proto cannot say, that an answer costs much, stands in HEAVY.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from chassis.method import Idempotency, Method


class Kind(StrEnum):
    """What a call costs the service, roughly."""

    READ = "read"
    """One thing, by name."""
    LIST = "list"
    """A page of things."""
    WRITE = "write"
    """A change."""
    HEAVY = "heavy"
    """Takes tens of milliseconds of a core: plans, walks through lineages and logs, hashes passwords."""
    STREAM = "stream"
    """Opening one; how many are open is another limit."""
    PUBLIC = "public"
    """Asked by anyone, without a token."""
    SIGN_IN = "sign-in"
    """Tries a password, a key or a token: by anyone, and guessing is what it is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many calls a second, with bursts; 0 means no limit."""

    per_s: float
    burst: float


# Of one caller and one method: the principal, or the address where there is no token. Beside the caller's own limit.
RATES: Final[Mapping[Kind, Rate]] = {
    Kind.READ: Rate(per_s=500, burst=1000),
    Kind.LIST: Rate(per_s=100, burst=400),
    Kind.WRITE: Rate(per_s=500, burst=1000),
    Kind.HEAVY: Rate(per_s=20, burst=100),
    Kind.STREAM: Rate(per_s=100, burst=400),
    Kind.PUBLIC: Rate(per_s=100, burst=400),
    Kind.SIGN_IN: Rate(per_s=50, burst=200),
}

# By service and method. A test finds the names here that no proto has.
HEAVY: Final = frozenset({
    "lepton.auth.v1.AuditService.ExportAudit",
    "lepton.auth.v1.AuditService.QueryAudit",
    "lepton.auth.v1.AuditService.VerifyAudit",
    "lepton.auth.v1.DirectoryService.CreateUser",
    "lepton.auth.v1.DirectoryService.SetPassword",
    "lepton.inference.v1.InferenceService.AnalyzeTaint",
    "lepton.inference.v1.InferenceService.GetModelLineage",
    "lepton.inference.v1.InferenceService.QuarantineModels",
    "lepton.inference.v1.InferenceService.ReleaseModels",
    "lepton.scheduler.v1.PlanningService.ExplainWorkload",
    "lepton.scheduler.v1.PlanningService.GetUtilization",
    "lepton.scheduler.v1.PlanningService.PlanAllocation",
    "lepton.scheduler.v1.PlanningService.PlanBalancing",
    "lepton.scheduler.v1.PlanningService.PlanScaling",
    "lepton.scheduler.v1.PlanningService.WhatIf",
})  # fmt: skip
_LISTS: Final = ("List", "Query", "Search")


def kind_of(method: Method) -> Kind:
    """The kind of a method, from its proto and from HEAVY."""
    asks_only = method.idempotency is Idempotency.NO_SIDE_EFFECTS
    if f"{method.service}.{method.name}" in HEAVY:
        return Kind.HEAVY
    if method.rule is not None and method.rule.public:
        return Kind.PUBLIC if asks_only else Kind.SIGN_IN
    if method.streams_requests or method.streams_responses:
        return Kind.STREAM
    if not asks_only:
        return Kind.WRITE
    return Kind.LIST if method.name.startswith(_LISTS) else Kind.READ


def rates_with(changes: Mapping[str, float]) -> Mapping[Kind, Rate]:
    """RATES with other calls a second for some kinds, bursts in proportion. Raises ValueError for an unknown kind."""
    known = {kind.value for kind in Kind}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise ValueError(f"limits.rates.{unknown[0]} is no kind of method; there are {', '.join(sorted(known))}")
    changed = {Kind(kind): Rate(per_s=per_s, burst=4 * per_s) for kind, per_s in changes.items()}
    return {**RATES, **changed}
