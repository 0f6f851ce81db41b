"""What the planner answers: one decision per workload that has to change, each to be carried out atomically."""

from dataclasses import dataclass, field

from services.scheduler.failure_values import Failures
from services.scheduler.snapshot import Reason, Reservation, Slice, State, TaskArray


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
class Tasks:
    """What becomes of the tasks of an array. Its generation that goes on gains and loses tasks in place."""

    array: TaskArray  # how they stand afterwards
    live: tuple[Slice, ...] = ()  # those of the generation that goes on, or begins
    added: frozenset[int] = frozenset()  # of these, by position, the ones that are placed now
    dropped: frozenset[int] = frozenset()  # those that have ended, and leave the generation before
    failed: tuple[Slice, ...] = ()  # those that have failed for good now
    sessions: tuple[tuple[str, str], ...] = ()  # node -> session, of all of `live`
    base: int = 0  # the generation before, whose document changes; 0 = there is none
    revision: int = 0  # of that document, when this was decided
    is_amended: bool = False  # that document is written anew


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
    preemptions: int = 0
    granted: tuple[tuple[str, int], ...] = ()
    has_quota: bool = False  # its quota is reserved from now on, if it was not; else it is given back
    resets_checks: bool = False  # its admission checks are asked again
    reservation: Reservation | None = None  # a new one, in place of any that it has
    drops_reservation: bool = False
    tasks: Tasks | None = None  # of an array
    together: str = ""  # decisions that name the same workload here are carried out in one transaction, or none of them
    failures: Failures = field(default_factory=Failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decisions of one cycle, in order, and the time at which to look again even if nothing happens."""

    decisions: tuple[Decision, ...] = ()
    wake_at: float | None = None
    dropped: tuple[str, ...] = ()  # reservations whose workload is no more
