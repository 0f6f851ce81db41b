"""Making room: the cheapest others whose end lets a workload in, found by trying it out before anything is stopped."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from services.scheduler.planner import cost
from services.scheduler.planner.ask import Ask, Spot
from services.scheduler.planner.books import Books
from services.scheduler.planner.quota import Fit
from services.scheduler.planner.use import Use
from services.scheduler.planner.victims import Holders, Tier, Unit, by_cost, by_density, units
from services.scheduler.snapshot import Assignment, Workload

MAX_WRITES: Final = 120  # what happens to all victims is one transaction, of which etcd takes 128 operations
MAX_UNITS: Final = 256  # gangs and single slices that are looked at one by one
LOST_WORK_FACTOR: Final = 4.0  # at most so many times the device-seconds that are asked for are lost
SIZE_FACTOR: Final = 4.0  # where several must go, at most so many times the devices that are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A workload that fits nowhere, with what it asks of one pool."""

    workload: Workload
    queue: str
    project: str
    ask: Ask
    use: Use


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What has to go, and where the workload fits then."""

    pool: str
    units: tuple[Unit, ...]
    spots: tuple[Spot, ...]
    stopping: tuple[
        tuple[Assignment, tuple[int, ...]], ...
    ]  # generations that are being stopped anyway, on whose places it counts

    @property
    def cost(self) -> float:
        """The work that is lost."""
        return sum(each.cost for each in self.units)

    @property
    def victims(self) -> tuple[str, ...]:
        """The workloads that lose something, by name."""
        return tuple(sorted({each.holder.name for each in self.units}))


class Preemption:
    """Finds room for the workloads of one cycle. Everything that it tries on the books is undone."""

    def __init__(self, books: Books) -> None:
        self.has_victims = False  # whether `find` has seen anybody who may be stopped, at whatever cost
        self._books = books
        self._holders = Holders(books)

    def find(self, claim: Claim, tiers: Collection[Tier] = frozenset(Tier)) -> Eviction | None:
        """The cheapest eviction that is allowed, of what is in these tiers; or None."""
        queue = self._books.queue(claim.workload)
        may_reclaim = queue is not None and not self._books.quotas.is_borrowing(claim.queue, claim.use)
        if not self._holders.may_be_any(claim.workload, queue.name if queue else "", may_reclaim=may_reclaim):
            return None
        is_short = self._books.quotas.fit(claim.queue, claim.project, claim.use).kind > Fit.BORROW
        # Quota may come back from wherever it is used; room only from where it is.
        holders = self._holders.everywhere() if is_short else self._holders.of(claim.ask.pool)
        found = units(claim.workload, queue, holders, self._books.now, may_reclaim=may_reclaim)
        found = [each for each in found if each.tier in tiers]
        if not found:
            return None
        self.has_victims = True
        evictions = [self._greedy(claim, sorted(found, key=order)) for order in (by_cost, by_density)]
        allowed = [each for each in evictions if each is not None and _is_within_budget(claim, each)]
        return min(allowed, key=lambda each: (each.cost, len(each.units), each.victims), default=None)

    def is_coming(self, claim: Claim) -> bool:
        """Whether there is room once everything has stopped that is being stopped anyway: nobody else has to go."""
        books = self._books
        if not books.stopping(claim.ask.pool) and not books.coming_back:
            return False
        fleet_mark, quota_mark = books.fleet.mark(), books.quotas.mark()
        self._let_stop(claim)
        spots = self._spots(claim, ())
        books.fleet.undo(fleet_mark)
        books.quotas.undo(quota_mark)
        return spots is not None

    def wake_at(self, claim: Claim) -> float | None:
        """When somebody who runs too short a time to be stopped may be stopped for it."""
        return self._holders.protected_until(claim.workload)

    def _greedy(self, claim: Claim, order: Sequence[Unit]) -> Eviction | None:
        books = self._books
        fleet_mark, quota_mark = books.fleet.mark(), books.quotas.mark()
        try:
            stopping = self._let_stop(claim)
            order = self._borrowed(order)
            enough = shortest(len(order), lambda count: self._spots(claim, order[:count]) is not None)
            if enough is None:
                return None
            chosen = self._relevant(claim, order[:enough])
            if chosen is None:
                return None
            for each in reversed(chosen):  # put back whoever is not needed after all
                others = [other for other in chosen if other is not each]
                if self._spots(claim, others) is not None:
                    chosen = others
            if not self._is_fair(claim, chosen):
                return None
            spots = self._spots(claim, chosen)
            assert spots is not None
        finally:
            books.fleet.undo(fleet_mark)
            books.quotas.undo(quota_mark)
        nodes = {each.node for each in spots}
        return Eviction(
            pool=claim.ask.pool,
            units=_in_order(chosen),
            spots=spots,
            stopping=tuple(
                (each, indices)
                for each, indices in stopping
                if any(one.node in nodes for one in each.slices if one.index in indices)
            ),
        )

    def _let_stop(self, claim: Claim) -> list[tuple[Assignment, tuple[int, ...]]]:
        """What is being stopped in the pool anyway has stopped: its places are free, and so is its quota."""
        books = self._books
        stopping = books.stopping(claim.ask.pool)
        for assignment, indices in stopping:
            books.fleet.release(assignment, indices)
        for name, use in books.coming_back:
            books.quotas.charge(books.quotas.queue_of(name), books.project(name), use, -1)
        return stopping

    def _borrowed(self, order: Sequence[Unit]) -> list[Unit]:
        """Without those of other queues that, after those before them, do not borrow any more."""
        quotas = self._books.quotas
        mark = quotas.mark()
        found: list[Unit] = []
        for each in order:
            if each.is_reclaimed and not quotas.is_borrowing(each.holder.queue):
                continue
            found.append(each)
            self._give_back(each)
        quotas.undo(mark)
        return found

    def _relevant(self, claim: Claim, order: Sequence[Unit]) -> list[Unit] | None:
        """Of what makes room, those where the room is; all, when it is quota that is short. None = too many."""
        spots = self._spots(claim, order)
        assert spots is not None
        nodes = {each.node for each in spots}
        near = [each for each in order if any(one.node in nodes for one in each.slices)]
        chosen = near if self._spots(claim, near) is not None else list(order)
        return chosen if len(chosen) <= MAX_UNITS else None

    def _spots(self, claim: Claim, chosen: Sequence[Unit]) -> tuple[Spot, ...] | None:
        """Where it fits when these are gone, quota and all."""
        books = self._books
        fleet_mark, quota_mark = books.fleet.mark(), books.quotas.mark()
        released: dict[str, set[int]] = {}
        for each in chosen:
            done = released.setdefault(each.holder.name, set())
            indices = [one.index for one in each.slices if one.index not in done]
            done.update(indices)
            books.fleet.release(each.holder.assignment, indices)
        for name, indices_ in released.items():
            self._give_back_slices(name, indices_, chosen)
        has_quota = books.quotas.fit(claim.queue, claim.project, claim.use).kind <= Fit.BORROW
        spots = books.fleet.place(claim.ask) if has_quota else None
        books.fleet.undo(fleet_mark)
        books.quotas.undo(quota_mark)
        return spots

    def _give_back_slices(self, name: str, indices: set[int], chosen: Sequence[Unit]) -> None:
        holder = next(each.holder for each in chosen if each.holder.name == name)
        whole = Unit(
            tier=Tier.GANG,
            cost=0.0,
            rank=0.0,
            size=0.0,
            holder=holder,
            position=0,
            slices=tuple(each for each in holder.slices if each.index in indices),
            is_reclaimed=False,
        )
        self._give_back(whole)

    def _give_back(self, each: Unit) -> None:
        books = self._books
        books.quotas.charge(each.holder.queue, books.project(each.holder.name), each.use(), -1)

    def _is_fair(self, claim: Claim, chosen: Sequence[Unit]) -> bool:
        """Checked again on those that are left: each queue that loses something borrows up to its last loss."""
        quotas = self._books.quotas
        reclaimed = [each for each in chosen if each.is_reclaimed]
        mark = quotas.mark()
        for each in chosen:
            self._give_back(each)
        share = quotas.share(claim.queue, claim.use)
        is_fair = not (reclaimed and quotas.is_borrowing(claim.queue, claim.use))
        for each in reclaimed:
            after = quotas.share(each.holder.queue)
            is_fair = is_fair and quotas.is_borrowing(each.holder.queue, each.use()) and share <= after
        quotas.undo(mark)
        return is_fair


def shortest(most: int, is_enough: Callable[[int], bool]) -> int | None:
    """The smallest count that is enough: doubling until one is, then halving what lies between."""
    low, high = 0, 1
    while high < most and not is_enough(high):
        low, high = high, high * 2
    high = min(high, most)
    if not most or (high == most and not is_enough(most)):
        return None
    while low + 1 < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high


def _in_order(chosen: Sequence[Unit]) -> tuple[Unit, ...]:
    return tuple(sorted(chosen, key=lambda each: (each.holder.name, each.tier, each.position)))


def _is_within_budget(claim: Claim, eviction: Eviction) -> bool:
    asked = cost.asked_by(claim.workload)
    work = asked * (claim.workload.expected_duration_s or cost.ASSUMED_S)
    if _writes(eviction) > MAX_WRITES or eviction.cost > LOST_WORK_FACTOR * work:
        return False
    taken = sum(cost.sum_of(each.holder.assignment, each.slices) for each in eviction.units)
    return len(eviction.victims) == 1 or taken <= SIZE_FACTOR * asked


def _writes(eviction: Eviction) -> int:
    """Two documents of each that ends change; of each that goes on smaller, a third is written."""
    whole = {each.holder.name for each in eviction.units if each.tier is Tier.GANG}
    return sum(2 if name in whole else 3 for name in eviction.victims)
