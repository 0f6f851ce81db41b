"""What must be so before a workload gets a place, besides room: it is not on hold, and every admission check agrees."""

from collections.abc import Sequence

from services.scheduler.planner.books import Books
from services.scheduler.planner.decision import Revocation
from services.scheduler.planner.quota import QuotaGap
from services.scheduler.planner.verdict import CHECKPOINT_GRACE_S, DRAINED, UNADMITTED, Verdict
from services.scheduler.queue_values import Stop
from services.scheduler.snapshot import Check, CheckState, Reason, Workload
from services.scheduler.units import amount_in_full, number

Refusal = tuple[Reason, str]


def held_back(workload: Workload, books: Books) -> Refusal | None:
    """Why a workload is not admitted whatever room there is, or None."""
    if workload.is_held:
        return Reason.ON_HOLD, "it is on hold"
    queue = books.quotas.queue_of(workload.name)
    if books.quotas.stop_of(queue) is not Stop.OPEN:
        return Reason.ON_HOLD, f"{queue} admits nothing now"
    rejected = _saying(workload.checks, CheckState.REJECTED)
    if rejected is not None:
        return Reason.ADMISSION_REJECTED, f"{rejected.name} rejects it{_words(rejected)}"
    return None


def put_off(workload: Workload, verdict: Verdict) -> bool:
    """Whether a check wants to be asked later. Its quota is given back; asked for again, the checks begin anew."""
    retry = _saying(workload.checks, CheckState.RETRY)
    if retry is None:
        return False
    if workload.quota_reserved_at is not None:
        verdict.has_quota = False
        verdict.reason, verdict.message = Reason.BACKING_OFF, f"{retry.name} is not ready for it{_words(retry)}"
        return True
    verdict.resets_checks = True
    return False


def unanswered(workload: Workload, verdict: Verdict) -> str:
    """The names of the checks that have not agreed yet."""
    if verdict.resets_checks:
        return ", ".join(each.name for each in workload.checks)
    return ", ".join(each.name for each in workload.checks if each.state is not CheckState.READY)


def floating_gap(workload: Workload, books: Books) -> Refusal | None:
    """Which floating resource is short, or None."""
    for name, amount in workload.floating:
        left = books.floating.get(name, 0)
        if amount > left:
            total = books.snapshot.floating.get(name, 0)
            return Reason.WAITING_FOR_FLOATING_RESOURCE, f"{amount} of {name} needed, {max(0, left)} of {total} left"
    return None


def withdrawn(workload: Workload, books: Books) -> Revocation | None:
    """The order to stop what runs, because its queue is drained or a check agrees no more."""
    assignment = books.wanted(workload)
    if assignment is None:
        return None
    reason = ""
    if books.snapshot.queues and books.quotas.stop_of(books.quotas.queue_of(workload.name)) is Stop.HOLD_AND_DRAIN:
        reason = DRAINED
    elif any(each.state in (CheckState.RETRY, CheckState.REJECTED) for each in workload.checks):
        reason = UNADMITTED
    if not reason:
        return None
    return Revocation(generation=assignment.generation, reason=reason, grace_s=CHECKPOINT_GRACE_S)


def quota_words(gaps: Sequence[QuotaGap]) -> str:
    """What quota is missing."""
    return "; ".join(_gap(gap) if gap.resource else f"{gap.queue} does not exist" for gap in gaps)


def _gap(gap: QuotaGap) -> str:
    whom = gap.project or "it"
    where = f" of {gap.pool}" if gap.pool else ""
    available = number(gap.resource, max(0, gap.available))
    return f"{gap.queue} can give {whom} {available} of {amount_in_full(gap.resource, gap.needed)}{where}"


def _saying(checks: Sequence[Check], state: CheckState) -> Check | None:
    return next((each for each in checks if each.state is state), None)


def _words(check: Check) -> str:
    return f": {check.message}" if check.message else ""
