"""What a workload asks of the pools that it may use, and how much of that there is quota for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from services.scheduler.planner.ask import Ask, Want
from services.scheduler.planner.books import Books, ask_of
from services.scheduler.planner.preemption import Claim
from services.scheduler.planner.quota import Fit
from services.scheduler.planner.tasks import TaskDraft
from services.scheduler.planner.use import least_use, use_of, use_of_ask
from services.scheduler.snapshot import Group, Reservation, Workload

TURN: Final = 0.01  # of the fleet, what an array's tasks may take before others of the queues have their turn


def asks_of(books: Books, workload: Workload, pools: Sequence[str], reservation: Reservation | None) -> list[Ask]:
    """What it asks of each pool: the least, and at once the most where its slices must be near to each other."""
    due = turn(books, workload) if workload.array is not None else 0
    wants = [_want(group, workload, due) for group in workload.groups]
    asks = [ask_of(workload, pool, wants) for pool in pools]
    if reservation is None:
        return asks
    granted = _counts(reservation)
    if workload.array is not None:
        granted = {name: max(1, min(count, draft_of(books, workload).due())) for name, count in granted.items()}
    wants = [Want(group=group, least=granted[group.name], most=granted[group.name]) for group in workload.groups]
    near = dict.fromkeys(each.node for each in reservation.slices)
    first = [ask_of(workload, reservation.pool, wants, near)]
    return [*first, *(ask for ask in asks if ask != first[0])]


def affordable(books: Books, workload: Workload, queue: str, project: str, ask: Ask) -> Ask:
    """The same with no more beyond the least than there is quota for."""
    counts = {want.group.name: want.least for want in ask.wants}
    wants: list[Want] = []
    for want in ask.wants:
        low, high = want.least, want.most
        while low < high:
            middle = (low + high + 1) // 2
            use = use_of(workload, ask.pool, counts | {want.group.name: middle})
            if books.quotas.fit(queue, project, use).kind <= Fit.BORROW:
                low = middle
            else:
                high = middle - 1
        counts[want.group.name] = low
        wants.append(want if low == want.most else replace(want, most=low))
    return ask if wants == [*ask.wants] else replace(ask, wants=tuple(wants))


def for_tasks(claim: Claim, count: int) -> Claim:
    """The claim of an array for so many of its tasks at once."""
    group = replace(claim.workload.groups[0], min_count=count, max_count=count)
    workload = replace(claim.workload, groups=(group,))
    ask = replace(claim.ask, wants=(Want(group=group, least=count, most=count),))
    return replace(claim, workload=workload, ask=ask, use=use_of_ask(workload, ask))


def draft_of(books: Books, workload: Workload) -> TaskDraft:
    """What is drafted about an array's tasks."""
    verdict = books.verdict(workload)
    if verdict.tasks is None:
        verdict.tasks = TaskDraft(workload, books.now)
    return verdict.tasks


def turn(books: Books, workload: Workload) -> int:
    """How many of its tasks may be placed before it is the turn of others."""
    due = draft_of(books, workload).due()
    share = books.quotas.dominant_share(least_use(workload)) if books.snapshot.queues else 0.0
    return min(due, max(1, int(TURN / share))) if share else due


def _want(group: Group, workload: Workload, due: int) -> Want:
    """`due`: how many of an array's tasks may be placed now."""
    if workload.array is not None:
        return Want(group=group, least=1, most=max(1, due))
    return Want(group=group, least=group.min_count, most=group.max_count if workload.topology else group.min_count)


def _counts(reservation: Reservation) -> Mapping[str, int]:
    counts = dict.fromkeys(reservation.demands, 0)
    for each in reservation.slices:
        counts[each.group] += 1
    return counts
