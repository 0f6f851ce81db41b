"""What becomes of an array: its tasks end one by one, and it ends when none is left."""

from collections.abc import Sequence
from typing import Final

from services.scheduler.lifecycle import FINAL, UP
from services.scheduler.planner.decision import Placement, Revocation
from services.scheduler.planner.need import whole_gang
from services.scheduler.planner.standing import Standing
from services.scheduler.planner.tasks import TaskDraft
from services.scheduler.planner.verdict import BANISHED, CANCELLED, CHECKPOINT_GRACE_S, GRACE_S, Verdict
from services.scheduler.snapshot import Reason, Slice, State, Workload

_TOLD: Final = 5  # of the tasks that have failed, so many are named


def judge_array(workload: Workload, standings: Sequence[Standing], now: float) -> Verdict:
    """The verdict on an array, given its generations, oldest first."""
    newest = standings[-1] if standings else None
    wanted = newest if newest is not None and not newest.assignment.revoked else None
    draft = TaskDraft(workload, now)
    verdict = Verdict(
        state=workload.state,
        restarts=workload.restarts,
        slices=(),
        missing=tuple(sorted({node for each in standings for node in each.missing})),
        wake_at=min((each.wake_at for each in standings if each.wake_at is not None), default=None),
        preemptions=workload.preemptions,
        granted=workload.granted,
        has_quota=workload.quota_reserved_at is not None,
        tasks=draft,
    )
    earlier = standings[:-1] if wanted is not None else standings
    is_quiet = not any(each.running for each in earlier)
    if wanted is not None:
        draft.go_on(wanted)
    _forget(verdict, draft, standings, earlier, is_all=is_quiet)
    if workload.state is State.CANCELLING:
        verdict.message = workload.message  # who has stopped it, and why
        if wanted is not None:
            verdict.revoke.append(
                Revocation(generation=wanted.assignment.generation, reason=CANCELLED, grace_s=GRACE_S)
            )
            draft.is_revoked = True
        elif is_quiet:
            verdict.state = State.CANCELLED
    elif not draft.left and is_quiet:
        _end(verdict, workload, draft, standings)
    elif wanted is None:
        _between(verdict, workload, draft, standings, now)
    else:
        _go_on(verdict, workload, draft, wanted)
    if verdict.state is not workload.state and verdict.state is State.PENDING:
        verdict.has_quota = False
    return verdict


def _forget(
    verdict: Verdict, draft: TaskDraft, standings: Sequence[Standing], earlier: Sequence[Standing], *, is_all: bool
) -> None:
    """Generations that are over: what they ran last is counted. Oldest first: a newer one says what it took."""
    retired: list[int] = []
    is_over = True
    for at, each in enumerate(earlier):
        following = standings[at + 1].assignment.kept if at + 1 < len(standings) else frozenset[int]()
        is_over = is_over and each.is_settled
        if is_over or is_all:
            retired.append(each.assignment.generation)
            draft.fold(one for one in each.slices if one.index not in following)
        else:
            draft.stops_elsewhere(each, following)
    verdict.retire = tuple(retired)


def _between(verdict: Verdict, workload: Workload, draft: TaskDraft, standings: Sequence[Standing], now: float) -> None:
    """Nothing of it is wanted: once nothing runs any more it asks for places again."""
    verdict.message = workload.message
    if any(each.running for each in standings):
        if workload.state is State.PENDING:
            verdict.reason = Reason.WAITING_FOR_FENCE
            verdict.message = f"{draft.others} tasks of an earlier generation may still be running"
    elif workload.state is not State.PENDING:
        verdict.state, verdict.reason = State.PENDING, Reason.PENDING_EVALUATION
    elif now < workload.not_before or not draft.due():
        verdict.reason = Reason.BACKING_OFF
        verdict.wake_at = max(workload.not_before, draft.wake_at() or 0.0)
    else:
        verdict.reason, verdict.message = workload.reason, workload.message
        verdict.need = whole_gang(workload)


def _go_on(verdict: Verdict, workload: Workload, draft: TaskDraft, wanted: Standing) -> None:
    assignment = wanted.assignment
    banished = [each for each in draft.live if each.index in wanted.banished]
    if banished:
        verdict.message = f"{len(banished)} of its tasks leave nodes with a taint that it does not tolerate"
        verdict.revoke.append(Revocation(generation=assignment.generation, reason=BANISHED, grace_s=CHECKPOINT_GRACE_S))
        draft.is_revoked = True
        left = tuple(each for each in draft.live if each.index not in wanted.banished)
        if left:
            verdict.state = State.ASSIGNED
            kept = frozenset(each.index for each in left)
            verdict.placement = Placement(pool=assignment.pool, slices=left, kept=kept, sessions=())
        return
    is_up = not draft.live or any(each.state in UP or each.state in FINAL for each in draft.live)
    verdict.state = State.RUNNING if is_up or workload.state is State.RUNNING else State.ASSIGNED
    wake_at = draft.wake_at()
    if wake_at is not None:
        verdict.wake_at = min(wake_at, verdict.wake_at or wake_at)
    if not draft.live and not draft.due():
        _wait_again(verdict, draft, wake_at)


def nothing_runs(verdict: Verdict) -> None:
    """None of its tasks has a place, and none gets one now: it waits like one that has never begun."""
    draft = verdict.tasks
    if draft is not None and draft.base is not None and not (draft.live or draft.added or draft.is_revoked):
        _wait_again(verdict, draft, None)


def _wait_again(verdict: Verdict, draft: TaskDraft, wake_at: float | None) -> None:
    assert draft.base is not None
    if draft.others:
        return  # some are still being stopped
    verdict.retire = (*verdict.retire, draft.base.generation)
    draft.is_revoked = True
    verdict.state, verdict.has_quota = State.PENDING, False
    verdict.reason = Reason.BACKING_OFF if wake_at is not None else Reason.PENDING_EVALUATION


def _end(verdict: Verdict, workload: Workload, draft: TaskDraft, standings: Sequence[Standing]) -> None:
    verdict.retire = tuple(each.assignment.generation for each in standings)
    draft.is_revoked = True
    if not draft.failures:
        verdict.state, verdict.message = State.SUCCEEDED, ""
        return
    verdict.state = State.FAILED
    verdict.message = _words(draft, workload)


def _words(draft: TaskDraft, workload: Workload) -> str:
    """How many have failed, and how the last of them did."""
    assert workload.array is not None
    said = f"{draft.failures} of {workload.array.count} tasks failed"
    if not draft.failed:
        return said
    return f"{said}; {', '.join(_how(each) for each in draft.failed[:_TOLD])}"


def _how(each: Slice) -> str:
    code = f" with exit code {each.exit_code}" if each.exit_code else ""
    return f"one on {each.node}{code}{f': {each.message}' if each.message else ''}"
