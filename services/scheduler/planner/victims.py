"""Who may be stopped for whom, what each would lose, and in what order they are looked at."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from services.scheduler.planner import cost
from services.scheduler.planner.books import Books, running
from services.scheduler.planner.use import Cell, held_by
from services.scheduler.queue_values import Queue
from services.scheduler.snapshot import Assignment, Kind, Slice, SliceState, Workload

_DEFAULT: Final = Queue(name="")


class Tier(IntEnum):
    """What is taken back first."""

    SURPLUS = 0  # slices above the least, of workloads that end
    TRIM = 1  # replicas above the least
    GANG = 2  # all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A workload that runs and could be stopped, or made smaller."""

    workload: Workload
    assignment: Assignment
    queue: str
    slices: tuple[Slice, ...]  # those that hold a place
    surplus: tuple[Slice, ...]  # those of them above the least, the first to go first

    @property
    def name(self) -> str:
        """The workload's."""
        return self.workload.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The least that can be taken back at once."""

    tier: Tier
    cost: float  # what is lost when it goes, after those of its holder that go before it
    rank: float  # what it is ordered by
    size: float  # in devices: of it, or of all that its holder can give up
    holder: Holder
    position: int  # among the holder's units of this tier
    slices: tuple[Slice, ...]
    is_reclaimed: bool  # of another queue, which borrows

    def use(self) -> dict[Cell, int]:
        """What of its quota it gives back."""
        return held_by([replace(self.holder.assignment, slices=self.slices, kept=frozenset())])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Protected:
    """One that runs for too short a time to be stopped."""

    priority: int
    until: float


class Holders:
    """All that run and may be disturbed, by pool; found once in a cycle."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._by_pool: dict[str, list[Holder]] | None = None
        self._summary: tuple[int | None, bool, frozenset[str]] | None = None
        self._protected: list[_Protected] = []

    def may_be_any(self, claim: Workload, queue: str, *, may_reclaim: bool) -> bool:
        """Whether anybody at all may lose something to a workload: told at once where the answer is no."""
        if self._summary is None:
            every = [each for holders in self._all().values() for each in holders]
            self._summary = (
                min((each.workload.priority for each in every), default=None),
                any(each.surplus for each in every),
                frozenset(each.queue for each in every),
            )
        least, has_surplus, queues = self._summary
        if least is None:
            return False
        return has_surplus or least < claim.priority or (may_reclaim and not queues <= {queue})

    def of(self, pool: str) -> Iterator[Holder]:
        """Those in a pool about which nothing else is decided."""
        books = self._books
        return (
            each
            for each in self._all().get(pool, ())
            if books.is_settled(each.name) and each.name not in books.reserved
        )

    def everywhere(self) -> Iterator[Holder]:
        """Those in all pools."""
        return (each for pool in sorted(self._all()) for each in self.of(pool))

    def _all(self) -> dict[str, list[Holder]]:
        if self._by_pool is None:
            self._by_pool = {}
            for workload in self._books.snapshot.workloads.values():
                holder = self._holder(workload)
                if holder is not None:
                    self._by_pool.setdefault(holder.assignment.pool, []).append(holder)
        return self._by_pool

    def protected_until(self, claim: Workload) -> float | None:
        """When the first of those that might be stopped for it has run for long enough."""
        found = (each.until for each in self._protected if each.priority <= claim.priority)
        return min(found, default=None)

    def _holder(self, workload: Workload) -> Holder | None:
        books = self._books
        assignment = books.wanted(workload)
        if assignment is None or not workload.is_preemptible:
            return None
        queue = books.queue(workload) or _DEFAULT
        until = (workload.assigned_at or 0.0) + queue.min_runtime_s
        if workload.assigned_at is not None and books.now < until:
            self._protected.append(_Protected(priority=workload.priority, until=until))
            return None
        slices = running(assignment, books.snapshot)
        if not slices:
            return None
        return Holder(
            workload=workload,
            assignment=assignment,
            queue=queue.name,
            slices=tuple(slices),
            surplus=tuple(_surplus(workload, slices)),
        )


def _surplus(workload: Workload, slices: list[Slice]) -> Iterator[Slice]:
    """Above the least of each group: those that are not up yet, then the highest ranks."""
    for group in workload.groups:
        if group.max_count == group.min_count:
            continue
        members = [each for each in slices if each.group == group.name]
        members.sort(key=lambda each: (each.state is SliceState.READY or each.state is SliceState.RUNNING, -each.index))
        yield from members[: max(0, len(members) - group.min_count)]


def units(
    claim: Workload, queue: Queue | None, holders: Iterable[Holder], now: float, *, may_reclaim: bool
) -> list[Unit]:
    """All that may be taken back for a workload."""
    found: list[Unit] = []
    mine = queue.name if queue else ""
    for holder in holders:
        if holder.name == claim.name:
            continue
        other = holder.workload
        is_lower = other.priority < claim.priority
        is_own = holder.queue == mine
        may_evict = (is_lower and (queue is None or queue.has_preemption)) if is_own else may_reclaim
        if holder.surplus and (may_evict or other.priority <= claim.priority):
            found += _of_surplus(holder, now, is_reclaimed=not is_own and not other.priority <= claim.priority)
        if may_evict:
            found.append(_gang(holder, now, is_reclaimed=not is_own))
    return found


def _of_surplus(holder: Holder, now: float, *, is_reclaimed: bool) -> Iterator[Unit]:
    """One slice each. A training run starts again whichever of its slices goes, so the first bears the cost."""
    is_gang = holder.workload.kind is Kind.TRAINING
    all_of_it = cost.sum_of(holder.assignment, holder.slices)
    surplus = cost.sum_of(holder.assignment, holder.surplus)
    restart = cost.of_stopping(holder.workload, all_of_it, now)
    for position, each in enumerate(holder.surplus):
        alone = cost.of_stopping(holder.workload, cost.sum_of(holder.assignment, (each,)), now)
        yield Unit(
            tier=Tier.TRIM if holder.workload.kind is Kind.SERVING else Tier.SURPLUS,
            cost=alone if not is_gang else restart if position == 0 else 0.0,
            rank=restart if is_gang else alone,
            size=surplus,
            holder=holder,
            position=position,
            slices=(each,),
            is_reclaimed=is_reclaimed,
        )


def _gang(holder: Holder, now: float, *, is_reclaimed: bool) -> Unit:
    size = cost.sum_of(holder.assignment, holder.slices)
    lost = cost.of_stopping(holder.workload, size, now)
    return Unit(
        tier=Tier.GANG,
        cost=lost,
        rank=lost,
        size=size,
        holder=holder,
        position=0,
        slices=holder.slices,
        is_reclaimed=is_reclaimed,
    )


def by_cost(each: Unit) -> tuple[object, ...]:
    """What loses the least first. Total: a name ends it, and a holder's units stay together and in their order."""
    return each.tier, each.rank, *_last(each)


def by_density(each: Unit) -> tuple[object, ...]:
    """What loses the least for its size first."""
    return each.tier, each.rank / max(each.size, 1e-9), *_last(each)


def _last(each: Unit) -> tuple[object, ...]:
    other = each.holder.workload
    return other.priority, -other.submitted, other.name, each.position
