"""What becomes of one workload: its next state, what to stop and forget, and what it still needs a place for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from services.scheduler.failure_values import Failures
from services.scheduler.lifecycle import FINAL, UP, backoff_s
from services.scheduler.planner.budgets import follow_up, words
from services.scheduler.planner.decision import Placement, Revocation
from services.scheduler.planner.need import Need, has_failed, repair, whole_gang
from services.scheduler.planner.standing import Standing
from services.scheduler.planner.tasks import TaskDraft
from services.scheduler.snapshot import Kind, Reason, Reservation, Slice, SliceState, State, Workload

CANCELLED: Final = "cancelled"
FAILED: Final = "failed"
LOST: Final = "lost"
EXHAUSTED: Final = "exhausted"
REPLACED: Final = "replaced"
PREEMPTED: Final = "preempted"
RESIZED: Final = "resized"
DRAINED: Final = "drained"
UNADMITTED: Final = "unadmitted"
BANISHED: Final = "banished"
GRACE_S: Final = 10.0
CHECKPOINT_GRACE_S: Final = 30.0  # for slices that should save what they have done before they go
_BROKEN: Final = frozenset({SliceState.FAILED, SliceState.STOPPED, SliceState.LOST})


@dataclass(slots=True, kw_only=True)
class Verdict:
    """The draft of a decision; what is not set stays as it is."""

    state: State
    restarts: int
    slices: tuple[Slice, ...]
    reason: Reason = Reason.NONE
    message: str = ""
    revoke: list[Revocation] = field(default_factory=list)
    retire: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    need: Need | None = None
    wake_at: float | None = None
    placement: Placement | None = None
    preemptions: int = 0
    granted: tuple[tuple[str, int], ...] = ()
    has_quota: bool = False
    resets_checks: bool = False
    reservation: Reservation | None = None
    drops_reservation: bool = False
    together: str = ""
    failures: Failures | None = None  # None = as they are
    tasks: TaskDraft | None = None  # of an array


def unchanged(workload: Workload) -> Verdict:
    """The verdict that leaves everything about a workload as it is."""
    return Verdict(
        state=workload.state,
        restarts=workload.restarts,
        slices=workload.slices,
        reason=workload.reason,
        message=workload.message,
        preemptions=workload.preemptions,
        granted=workload.granted,
        has_quota=workload.quota_reserved_at is not None,
    )


def judge(workload: Workload, standings: Sequence[Standing], now: float) -> Verdict:
    """The verdict on a workload, given its generations, oldest first."""
    newest = standings[-1] if standings else None
    verdict = Verdict(
        state=workload.state,
        restarts=workload.restarts,
        slices=newest.slices if newest else workload.slices,
        missing=tuple(sorted({node for each in standings for node in each.missing})),
        wake_at=min((each.wake_at for each in standings if each.wake_at is not None), default=None),
        preemptions=workload.preemptions,
        granted=workload.granted,
        has_quota=workload.quota_reserved_at is not None,
    )
    wanted = newest if newest and not newest.assignment.revoked else None
    if workload.state is State.CANCELLING:
        verdict.message = workload.message  # who has stopped it, and why
        _cancel(verdict, standings, wanted)
    elif wanted is None:
        _between_generations(verdict, workload, standings, now)
    elif workload.kind is Kind.TRAINING:
        _gang(verdict, wanted)
    else:
        _independent(verdict, workload, wanted, now)
    verdict.retire = verdict.retire or _forgotten(standings, wanted)
    if verdict.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        _end(verdict, workload, standings)
    if verdict.state is not workload.state and verdict.state is State.PENDING:
        verdict.has_quota = False
    return verdict


def _cancel(verdict: Verdict, standings: Sequence[Standing], wanted: Standing | None) -> None:
    if wanted is not None:
        verdict.revoke.append(_revocation(wanted, CANCELLED, GRACE_S))
    elif all(each.is_settled for each in standings):
        verdict.state = State.CANCELLED


def _between_generations(verdict: Verdict, workload: Workload, standings: Sequence[Standing], now: float) -> None:
    """Nothing of it is wanted: wait until nothing runs, then restart, give up, or ask for a place."""
    running = sum(each.running for each in standings)
    if running:
        verdict.message = workload.message
        if workload.state is State.PENDING:
            verdict.reason = Reason.WAITING_FOR_FENCE
            verdict.message = f"{running} slices of an earlier generation may still be running"
        return
    if workload.state is not State.PENDING:
        _after(verdict, workload, standings[-1] if standings else None)
    elif now < workload.not_before:
        verdict.reason, verdict.message = Reason.BACKING_OFF, workload.message
        verdict.wake_at = workload.not_before
    else:
        verdict.need = whole_gang(workload)  # the cycle looks for its place


def _after(verdict: Verdict, workload: Workload, ended: Standing | None) -> None:
    """A generation has ended everywhere: what comes next depends on how it ended."""
    verdict.state, verdict.message = State.PENDING, workload.message
    verdict.reason = Reason.PENDING_EVALUATION
    revoked = ended.assignment.revoked if ended is not None else ""
    if revoked == EXHAUSTED:
        verdict.state, verdict.reason = State.FAILED, Reason.NONE
    if ended is None or workload.kind is not Kind.TRAINING or revoked in (EXHAUSTED, REPLACED, RESIZED):
        return
    was_stopped = revoked not in (FAILED, LOST)
    outcome = follow_up(workload, ended.slices, ended.assignment.generation, was_stopped=was_stopped)
    verdict.failures, verdict.message = outcome.failures, outcome.message
    if outcome.is_over:
        verdict.state, verdict.reason = State.FAILED, Reason.NONE
    elif outcome.counts:
        verdict.restarts += 1
        verdict.reason = Reason.BACKING_OFF


def _gang(verdict: Verdict, wanted: Standing) -> None:
    """Every slice is needed: one that is broken ends the generation."""
    broken = [each for each in wanted.slices if each.state in _BROKEN]
    if broken:
        only_lost = all(each.state is SliceState.LOST for each in broken)
        verdict.message = words(wanted.slices)
        verdict.revoke.append(_revocation(wanted, LOST if only_lost else FAILED, 0.0))
    elif all(each.state is SliceState.SUCCEEDED for each in wanted.slices):
        verdict.state = State.SUCCEEDED
    elif wanted.banished:
        first = next(each for each in wanted.slices if each.index in wanted.banished)
        verdict.message = f"it is being stopped: {first.node} has a taint that it does not tolerate"
        verdict.revoke.append(_revocation(wanted, BANISHED, CHECKPOINT_GRACE_S))
    else:
        verdict.state = State.RUNNING if _all_up(wanted) else State.ASSIGNED


def _independent(verdict: Verdict, workload: Workload, wanted: Standing, now: float) -> None:
    """Slices stand alone: those that are broken, or not wanted any more, are replaced beside the others."""
    told = {each.index: each.state for each in workload.slices}
    failed = [each for each in wanted.slices if has_failed(workload, each)]
    fresh = [each for each in failed if told.get(each.index) not in FINAL]
    not_before = workload.not_before
    if fresh:
        verdict.message = words(fresh)
        if workload.restarts >= workload.max_restarts:
            verdict.revoke.append(_revocation(wanted, EXHAUSTED, GRACE_S))
            return
        verdict.restarts += 1
        not_before = max(not_before, now + backoff_s(verdict.restarts))
    need = repair(workload, wanted)
    if not need.count and not need.has_dropped:
        is_done = all(each.state is SliceState.SUCCEEDED for each in wanted.slices)
        verdict.state = State.SUCCEEDED if is_done else State.RUNNING if _all_up(wanted) else State.ASSIGNED
        return
    verdict.state = State.ASSIGNED
    if failed and now < not_before:
        verdict.reason = Reason.BACKING_OFF
        verdict.message = verdict.message or workload.message
        verdict.wake_at = min(not_before, verdict.wake_at or not_before)
    else:
        verdict.need = need


def _end(verdict: Verdict, workload: Workload, standings: Sequence[Standing]) -> None:
    """It ends once nothing of it runs any more, and then everything about its generations is forgotten."""
    if all(each.is_settled for each in standings):
        verdict.retire = tuple(each.assignment.generation for each in standings)
    else:
        verdict.state = workload.state


def _forgotten(standings: Sequence[Standing], wanted: Standing | None) -> tuple[int, ...]:
    """The generations that run nowhere: oldest first, because a newer one says what an older one handed over."""
    retired: list[int] = []
    for each in standings:
        if each is wanted or not each.is_settled:
            break
        retired.append(each.assignment.generation)
    return tuple(retired)


def _revocation(standing: Standing, reason: str, grace_s: float) -> Revocation:
    return Revocation(generation=standing.assignment.generation, reason=reason, grace_s=grace_s)


def _all_up(standing: Standing) -> bool:
    return all(each.state in UP for each in standing.slices)
