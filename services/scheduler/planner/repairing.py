"""Places for slices that stand alone, beside those that stay."""

from dataclasses import replace

from services.scheduler.planner.ask import Ask, Spot, Want
from services.scheduler.planner.books import Books, ask_of, running
from services.scheduler.planner.decision import Revocation
from services.scheduler.planner.gates import Refusal, quota_words
from services.scheduler.planner.need import Need
from services.scheduler.planner.placing import placement_of
from services.scheduler.planner.quota import Fit, project_of
from services.scheduler.planner.reasons import explain, no_pool
from services.scheduler.planner.use import held_by, use_of, use_of_spots
from services.scheduler.planner.verdict import GRACE_S, REPLACED, Verdict
from services.scheduler.snapshot import Assignment, Reason, State, Workload


def repair(books: Books, workload: Workload, verdict: Verdict, need: Need, blocked_pools: set[str]) -> Refusal | None:
    """Places for what is missing; a new generation if that changes anything. Adds the pool where it waits for room."""
    name = workload.name
    before = books.snapshot.assignments[name][-1]
    verdict.need = None
    refusal: Refusal | None = None
    spots: tuple[Spot, ...] = ()
    if need.count:
        queue, project = books.quotas.queue_of(name), project_of(name)
        mark = books.quotas.mark()
        _forget_lost(books, before, queue, project)
        ask = ask_of(workload, before.pool, need.wants, [each.node for each in need.kept])
        spots, refusal = _more(books, workload, queue, project, ask, blocked_pools)
        if not spots:
            books.quotas.undo(mark)
    if not spots and not need.has_dropped:
        return refusal
    verdict.revoke.append(Revocation(generation=before.generation, reason=REPLACED, grace_s=GRACE_S))
    if not spots and not need.kept:
        return refusal  # nothing is left of it: it starts again from nothing once the old slices have stopped
    verdict.state = State.ASSIGNED
    verdict.placement = placement_of(workload, before.pool, spots, books.snapshot, need.kept, before)
    verdict.slices = verdict.placement.slices
    return refusal


def _forget_lost(books: Books, before: Assignment, queue: str, project: str) -> None:
    """Slices of lost nodes use quota no more."""
    here = {each.index for each in running(before, books.snapshot)}
    lost = tuple(each for each in before.slices if each.index not in here)
    books.quotas.charge(queue, project, held_by([replace(before, slices=lost, kept=frozenset())]), -1)


def _more(
    books: Books, workload: Workload, queue: str, project: str, ask: Ask, blocked_pools: set[str]
) -> tuple[tuple[Spot, ...], Refusal | None]:
    if ask.pool not in books.snapshot.pools:
        return (), no_pool(workload)
    use = use_of(workload, ask.pool, {want.group.name: want.most for want in ask.wants})
    fit = books.quotas.fit(queue, project, use)
    if fit.kind >= Fit.WAIT:
        return (), (Reason.WAITING_FOR_QUOTA, quota_words(fit.gaps))
    spots = books.fleet.place(ask) or ()
    if spots:
        books.quotas.charge(queue, project, use_of_spots(workload, ask.pool, spots))
        return spots, None
    blocked_pools.add(ask.pool)
    full = tuple(Want(group=want.group, least=want.most, most=want.most) for want in ask.wants)
    return (), explain([ask_of(workload, ask.pool, full, ask.near)], books.snapshot, books.fleet)
