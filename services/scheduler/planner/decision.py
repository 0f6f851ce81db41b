"""What the planner answers: one decision per workload that has to change, each to be carried out atomically."""

from dataclasses import dataclass

from services.scheduler.snapshot import Reason, Slice, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A new generation: its slices, those it keeps from the one before, and the sessions it relies on."""

    pool: str
    slices: tuple[Slice, ...]
    kept: frozenset[int]
    sessions: tuple[tuple[str, str], ...]  # node -> session


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A generation whose slices are to be stopped."""

    generation: int
    reason: str
    grace_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything that changes about one workload."""

    workload: str
    state: State
    generation: int
    restarts: int
    reason: Reason = Reason.NONE
    message: str = ""
    slices: tuple[Slice, ...] = ()
    placement: Placement | None = None
    revoke: tuple[Revocation, ...] = ()
    retire: tuple[int, ...] = ()  # generations that run nowhere any more: to be forgotten
    missing: tuple[str, ...] = ()  # nodes whose absence it relies on


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decisions of one cycle, in order, and the time at which to look again even if nothing happens."""

    decisions: tuple[Decision, ...] = ()
    wake_at: float | None = None
