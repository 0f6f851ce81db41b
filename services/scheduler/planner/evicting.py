"""What an eviction means for each that is concerned: who stops, who shrinks, and what is reserved for whom."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.scheduler.planner.books import Books
from services.scheduler.planner.decision import Revocation
from services.scheduler.planner.placing import as_granted, counts_of, numbered, placement_of
from services.scheduler.planner.preemption import Claim, Eviction
from services.scheduler.planner.quota import project_of
from services.scheduler.planner.reservations import MARGIN_S, Load, loads_of, reservation_for
from services.scheduler.planner.use import Use, held_by
from services.scheduler.planner.verdict import CHECKPOINT_GRACE_S, PREEMPTED, RESIZED
from services.scheduler.planner.victims import Holder
from services.scheduler.snapshot import Kind, Slice, State, Workload

LIFETIME_S: Final = CHECKPOINT_GRACE_S + MARGIN_S


def evict(books: Books, claim: Claim, eviction: Eviction) -> str:
    """Draft what all of them do, in one transaction with the reservation; what the claimant is told."""
    workload = claim.workload
    taken: dict[str, tuple[Holder, dict[int, Slice]]] = {}
    for unit in eviction.units:
        _, slices = taken.setdefault(unit.holder.name, (unit.holder, {}))
        slices.update({each.index: each for each in unit.slices})
    credit: dict[str, Load] = {}
    charged = dict(claim.use)
    for name in sorted(taken):
        holder, gone = taken[name]
        demands = {group: ran.demand for group, ran in holder.assignment.groups.items()}
        loads_of(gone.values(), demands, credit)
        if holder.queue == claim.queue:
            _less(charged, held_by([replace(holder.assignment, slices=tuple(gone.values()), kept=frozenset())]))
        _stop(books, workload, holder, gone)
    for assignment, indices in eviction.stopping:
        demands = {group: ran.demand for group, ran in assignment.groups.items()}
        loads_of([each for each in assignment.slices if each.index in indices], demands, credit)
    victims = [(name, holder.assignment.generation) for name, (holder, _) in taken.items()]
    victims += [(each.workload, each.generation) for each, _ in eviction.stopping]
    reservation = reservation_for(
        workload, eviction.pool, numbered((), eviction.spots, workload.groups), victims, books.now + LIFETIME_S
    )
    verdict = books.verdict(workload)
    verdict.reservation, verdict.drops_reservation = reservation, False
    verdict.together = workload.name
    books.reserved.add(reservation, credit)
    books.hold_reservation(workload.name)
    books.quotas.charge(claim.queue, claim.project, charged)
    books.charge_floating(workload)
    books.wake(reservation.expires_at)
    return waiting_words(len(taken))


def named_to(workload: Workload, other: Workload) -> str:
    """How a workload's own people are told of another: by name where it is of their project."""
    return other.name if project_of(other.name) == project_of(workload.name) else "a workload of another project"


def waiting_words(count: int) -> str:
    """What one is told for whom others are stopped."""
    return f"{count} workload{'s' if count > 1 else ''} must make room for it first"


def _stop(books: Books, claimant: Workload, holder: Holder, gone: dict[int, Slice]) -> None:
    victim, assignment = holder.workload, holder.assignment
    verdict = books.verdict(victim)
    verdict.together = claimant.name
    is_gang = victim.kind is Kind.TRAINING
    # A gang goes on with what holds a place; which of independent slices have ended or are lost is seen to elsewhere.
    left = [each for each in (holder.slices if is_gang else assignment.slices) if each.index not in gone]
    if all(each.index in gone for each in holder.slices) or (is_gang and not _is_enough(victim, left)):
        verdict.message = f"it makes room for {named_to(victim, claimant)}"
        verdict.preemptions += 1
        verdict.granted = ()
        verdict.revoke.append(_revocation(holder, PREEMPTED))
    elif is_gang:
        shrink(books, claimant, holder, left)
    else:
        verdict.state = State.ASSIGNED
        verdict.message = f"{len(gone)} of its slices make room for {named_to(victim, claimant)}"
        verdict.revoke.append(_revocation(holder, RESIZED))
        verdict.placement = placement_of(victim, assignment.pool, (), books.snapshot, left, assignment)
        verdict.slices = verdict.placement.slices


def shrink(books: Books, claimant: Workload, holder: Holder, left: Sequence[Slice]) -> None:
    """Draft that a gang stops at a checkpoint and goes on with what is left, on places that are kept for it."""
    victim, assignment = holder.workload, holder.assignment
    verdict = books.verdict(victim)
    verdict.message = f"it goes on with {len(left)} slices, to make room for {named_to(victim, claimant)}"
    verdict.granted = as_granted(counts_of(left))
    verdict.revoke.append(_revocation(holder, RESIZED))
    verdict.reservation = reservation_for(
        victim, assignment.pool, left, [(victim.name, assignment.generation)], books.now + LIFETIME_S
    )
    demands = {group: ran.demand for group, ran in assignment.groups.items()}
    books.reserved.add(verdict.reservation, loads_of(left, demands))


def _is_enough(workload: Workload, slices: Sequence[Slice]) -> bool:
    counts = counts_of(slices)
    return all(counts.get(group.name, 0) >= group.min_count for group in workload.groups)


def _revocation(holder: Holder, reason: str) -> Revocation:
    return Revocation(generation=holder.assignment.generation, reason=reason, grace_s=CHECKPOINT_GRACE_S)


def _less(use: dict[tuple[str, str], int], other: Use) -> None:
    """Without what another gives back."""
    for cell, amount in other.items():
        if cell in use:
            use[cell] = max(0, use[cell] - amount)
