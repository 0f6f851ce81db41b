"""Surplus: what is left when all that wait are served goes where it brings the most, if that is worth the stop.

Replicas come first: where nothing is left for those that a deployment asks for, gangs give up theirs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from services.scheduler.planner import cost
from services.scheduler.planner.ask import Spot, Want
from services.scheduler.planner.avoidance import place
from services.scheduler.planner.books import Books, ask_of, running
from services.scheduler.planner.decision import Revocation
from services.scheduler.planner.evicting import LIFETIME_S, shrink
from services.scheduler.planner.placing import as_granted, counts_of, numbered, placement_of
from services.scheduler.planner.preemption import Claim, Eviction, Preemption
from services.scheduler.planner.quota import Fit, project_of
from services.scheduler.planner.reservations import loads_of, reservation_for
from services.scheduler.planner.throughput import Throughput
from services.scheduler.planner.use import use_of, use_of_spots
from services.scheduler.planner.verdict import CHECKPOINT_GRACE_S, RESIZED
from services.scheduler.planner.victims import Tier
from services.scheduler.snapshot import Assignment, Group, Kind, Slice, State, Workload

HORIZON_S: Final = 3600.0  # a gain counts for so long, or until the expected end
MARGIN: Final = 1.5  # it must be so many times what the stop costs


@dataclass(slots=True)
class _Candidate:
    """A workload that could use more."""

    workload: Workload
    pool: str
    nodes: list[str]
    counts: dict[str, int]
    curve: Throughput
    before: Assignment | None  # None = it begins in this cycle
    added: list[Spot]

    @property
    def size(self) -> int:
        return sum(self.counts.values())


class Elastic:
    """Hands out what is left at the end of a cycle."""

    def __init__(self, books: Books, blocked_pools: Iterable[str]) -> None:
        self._books = books
        self._blocked = frozenset(blocked_pools)
        self._preemption = Preemption(books)

    def grow(self, admitted: Sequence[Workload]) -> None:
        """Those that begin now grow at no cost, then independent slices, then gangs that have to stop for it."""
        beginning = [each for workload in admitted if (each := self._beginning(workload)) is not None]
        self._share_out(beginning)
        for each in beginning:
            self._begin_larger(each)
        growing = list(self._growing())
        independent = [each for each in growing if each.workload.kind is not Kind.TRAINING]
        self._share_out(independent)
        for each in independent:
            self._add(each)
        for each in sorted((each for each in independent if each.workload.kind is Kind.SERVING), key=_order):
            self._make_room(each)
        for each in sorted((each for each in growing if each.workload.kind is Kind.TRAINING), key=_order):
            self._resize(each)

    def _beginning(self, workload: Workload) -> _Candidate | None:
        placement = self._books.verdict(workload).placement
        if placement is None or not _may_grow(workload) or self._books.verdict(workload).granted:
            return None
        return _candidate(workload, placement.pool, placement.slices, None)

    def _growing(self) -> Iterable[_Candidate]:
        """What runs, below its most, for long enough, where nobody waits."""
        books = self._books
        elastic = [each for each in books.snapshot.workloads.values() if each.generation and _may_grow(each)]
        for workload in sorted(elastic, key=lambda each: each.name):
            name = workload.name
            before = books.wanted(workload)
            if before is None or before.pool in self._blocked or name in books.reserved:
                continue
            slices = running(before, books.snapshot)
            if len(slices) < len(before.slices) or not _below(workload, slices):
                continue
            rest_s = self._rest_s(workload, before)
            if workload.assigned_at is not None and books.now < workload.assigned_at + rest_s:
                books.wake(workload.assigned_at + rest_s)
                continue
            yield _candidate(workload, before.pool, slices, before)

    def _rest_s(self, workload: Workload, before: Assignment) -> float:
        """How long nothing is added after the last change: adding an independent slice stops nobody."""
        if workload.kind is Kind.TRAINING:
            return self._books.snapshot.settled_s
        was_cut = bool(before.kept) and len(before.kept) == len(before.slices)
        return self._books.snapshot.cooled_s if was_cut else 0.0

    def _share_out(self, candidates: Sequence[_Candidate]) -> None:
        """Slice by slice to whom the next brings the most for its size."""
        heap = [(_worth(each, group), *_order(each), position, at)
                for position, each in enumerate(candidates)
                for at, group in enumerate(each.workload.groups)]  # fmt: skip
        heapify(heap)
        while heap:
            *_, position, at = heappop(heap)
            candidate = candidates[position]
            group = candidate.workload.groups[at]
            if self._one_more(candidate, group):
                heappush(heap, (_worth(candidate, group), *_order(candidate), position, at))

    def _one_more(self, candidate: _Candidate, group: Group) -> bool:
        books, workload = self._books, candidate.workload
        if candidate.counts.get(group.name, 0) >= group.max_count:
            return False
        name = workload.name
        queue, project = books.quotas.queue_of(name), project_of(name)
        one = Spot(group=group.name, node="", devices=())
        use = use_of_spots(workload, candidate.pool, [one])
        if books.quotas.fit(queue, project, use).kind > Fit.BORROW:
            return False
        one_more = ask_of(
            workload, candidate.pool, [Want(group=group, least=1, most=1)], dict.fromkeys(candidate.nodes)
        )
        spots = place(books.fleet, one_more, workload.failures.avoided)  # nobody has to grow onto these
        if spots is None:
            return False
        books.quotas.charge(queue, project, use)
        candidate.added += spots
        candidate.nodes += [each.node for each in spots]
        candidate.counts[group.name] = candidate.counts.get(group.name, 0) + 1
        return True

    def _begin_larger(self, candidate: _Candidate) -> None:
        if not candidate.added:
            return
        workload = candidate.workload
        verdict = self._books.verdict(workload)
        assert verdict.placement is not None
        spots = [Spot(group=each.group, node=each.node, devices=each.devices) for each in verdict.placement.slices]
        verdict.placement = placement_of(workload, candidate.pool, [*spots, *candidate.added], self._books.snapshot)
        verdict.slices = verdict.placement.slices

    def _add(self, candidate: _Candidate) -> None:
        """Independent slices start beside those that run."""
        if not candidate.added:
            return
        workload, before = candidate.workload, candidate.before
        assert before is not None
        verdict = self._books.verdict(workload)
        verdict.revoke.append(Revocation(generation=before.generation, reason=RESIZED, grace_s=CHECKPOINT_GRACE_S))
        verdict.placement = placement_of(
            workload, candidate.pool, candidate.added, self._books.snapshot, before.slices, before
        )
        verdict.slices, verdict.state = verdict.placement.slices, State.ASSIGNED

    def _make_room(self, candidate: _Candidate) -> None:
        """Replicas are asked for because there is load: gangs that are not before them give up surplus for them.

        Nothing is reserved for the replicas: whoever waits comes before them, and they before any gang that would grow.
        """
        books, workload, pool = self._books, candidate.workload, candidate.pool
        if candidate.added or not books.is_settled(workload.name):
            return
        if books.stopping(pool) or any(self._reserved_pool(name) == pool for name in books.reserved.names()):
            return  # room is being made already
        missing = {group.name: group.max_count - candidate.counts.get(group.name, 0) for group in workload.groups}
        count = max(missing.values())
        while count > 0:
            counts = {name: min(count, each) for name, each in missing.items()}
            wants = [Want(group=one, least=counts[one.name], most=counts[one.name]) for one in workload.groups]
            claim = Claim(
                workload=workload,
                queue=books.quotas.queue_of(workload.name),
                project=project_of(workload.name),
                ask=ask_of(workload, pool, [each for each in wants if each.least], dict.fromkeys(candidate.nodes)),
                use=use_of(workload, pool, counts),
            )
            eviction = self._preemption.find(claim, tiers=(Tier.SURPLUS,))
            if eviction is not None:
                self._take_surplus(workload, eviction)
                return
            books.wake(self._preemption.wake_at(claim))
            count //= 2

    def _reserved_pool(self, name: str) -> str:
        reservation = self._books.reserved.get(name)
        return reservation.pool if reservation is not None else ""

    def _take_surplus(self, claimant: Workload, eviction: Eviction) -> None:
        gone: dict[str, set[int]] = {}
        holders = {unit.holder.name: unit.holder for unit in eviction.units}
        for unit in eviction.units:
            gone.setdefault(unit.holder.name, set()).update(each.index for each in unit.slices)
        for name in sorted(gone):
            left = [each for each in holders[name].slices if each.index not in gone[name]]
            shrink(self._books, claimant, holders[name], left)
            reservation = self._books.verdict(holders[name].workload).reservation
            assert reservation is not None
            self._books.wake(reservation.expires_at)

    def _resize(self, candidate: _Candidate) -> None:
        """A gang stops at a checkpoint and goes on larger, on places that are kept for it, if that is worth it."""
        books, workload, before = self._books, candidate.workload, candidate.before
        assert before is not None
        size, fleet_mark, quota_mark = candidate.size, books.fleet.mark(), books.quotas.mark()
        self._share_out([candidate])
        if not candidate.added or not _is_worth(candidate, size, books.now):
            books.fleet.undo(fleet_mark)
            books.quotas.undo(quota_mark)
            return
        verdict = books.verdict(workload)
        kept = [Spot(group=each.group, node=each.node, devices=each.devices) for each in before.slices]
        verdict.granted = as_granted(candidate.counts)
        verdict.message = f"it goes on with {candidate.size} slices instead of {size}"
        verdict.revoke.append(Revocation(generation=before.generation, reason=RESIZED, grace_s=CHECKPOINT_GRACE_S))
        verdict.reservation = reservation_for(
            workload,
            candidate.pool,
            numbered((), [*kept, *candidate.added], workload.groups),
            [(workload.name, before.generation)],
            books.now + LIFETIME_S,
        )
        books.wake(verdict.reservation.expires_at)
        demands = {name: ran.demand for name, ran in before.groups.items()}
        books.reserved.add(verdict.reservation, loads_of(before.slices, demands))


def _may_grow(workload: Workload) -> bool:
    """Slices that must be near to each other are placed at once, as many as there is room for."""
    if workload.array is not None:
        return False  # its tasks have had their turn in the line
    return workload.topology is None and any(group.max_count > group.min_count for group in workload.groups)


def _below(workload: Workload, slices: Iterable[Slice]) -> bool:
    counts = counts_of(slices)
    return any(counts.get(group.name, 0) < group.max_count for group in workload.groups)


def _candidate(workload: Workload, pool: str, slices: Sequence[Slice], before: Assignment | None) -> _Candidate:
    return _Candidate(
        workload=workload,
        pool=pool,
        nodes=[each.node for each in slices],
        counts=counts_of(slices),
        curve=Throughput.fitted(workload.throughput),
        before=before,
        added=[],
    )


def _worth(candidate: _Candidate, group: Group) -> float:
    """Less is better: what one more slice brings for its size."""
    return -candidate.curve.gain(candidate.size) / cost.size_of(group.demand)


def _order(candidate: _Candidate) -> tuple[int, int, str]:
    return -candidate.workload.priority, candidate.workload.submitted, candidate.workload.name


def _is_worth(candidate: _Candidate, size: int, now: float) -> bool:
    """The work gained until the horizon, against the work lost by the stop."""
    workload = candidate.workload
    left_s = HORIZON_S
    if workload.expected_duration_s and workload.assigned_at is not None:
        left_s = min(left_s, workload.assigned_at + workload.expected_duration_s - now)
    gain = candidate.curve.gain(size, candidate.size - size) * left_s
    return gain > MARGIN * candidate.curve.work(size) * (cost.unsaved_s(workload, now) + cost.RESTART_S)
