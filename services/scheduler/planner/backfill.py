"""Backfill: the first that waits keeps the places where it will fit soonest; others pass where they do not delay it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from services.scheduler.planner.ask import Ask, Spot
from services.scheduler.planner.books import Books, running
from services.scheduler.planner.reservations import Load, as_slices, loads_of
from services.scheduler.queue_values import Queue
from services.scheduler.snapshot import Assignment, Slice, State, Workload

OVERDUE_S: Final = 60.0  # what runs for longer than it said is expected to run for so much more
PATIENCE_S: Final = 3600.0  # after so long, places are kept for a head even if nothing says when they will be free
_DEFAULT: Final = Queue(name="")


@dataclass(slots=True)
class _Head:
    """The first that waits in its pools, and what is kept for it."""

    workload: str
    until: float  # when it will begin
    loads: dict[str, Load]  # of its places, what is free already
    held: Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    """A generation that will end."""

    at: float
    assignment: Assignment
    slices: tuple[Slice, ...]


class Backfill:
    """The heads of one cycle. Nothing of it is stored: the next cycle finds the same again, or better."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._heads: dict[str, _Head] = {}  # by pool
        self._endings: dict[str, list[_Ending]] = {}

    def wait(self, workload: Workload, asks: Sequence[Ask]) -> None:
        """A workload has no place: if it is the first, keep the places where it will have one."""
        if any(ask.pool in self._heads for ask in asks):
            return
        queue = self._books.queue(workload) or _DEFAULT
        is_aged = self._books.now - workload.waiting_since >= min(queue.aging_s, PATIENCE_S)
        found = [head for ask in asks if (head := self._head(workload, ask, None if is_aged else inf)) is not None]
        if found:
            head = min(found, key=lambda each: (each.until, each.held.pool))
            self._heads.update(dict.fromkeys([ask.pool for ask in asks], head))
            self._hold(head)

    def has_heads(self, pools: Sequence[str]) -> bool:
        """Whether places are kept in all of these pools."""
        return all(pool in self._heads for pool in pools)

    def may_pass(self, pools: Sequence[str], duration_s: float) -> bool:
        """Whether one that runs for so long is over before the head of one of the pools begins."""
        if not duration_s or not self._heads:
            return False
        ends_at = self._books.now + duration_s
        return any(head is not None and ends_at <= head.until for head in map(self._heads.get, pools))

    def pass_by(self, workload: Workload, ask: Ask) -> tuple[Spot, ...] | None:
        """Places for one that is over before the head of its pool begins, also on what is kept for that."""
        head = self._heads.get(ask.pool)
        duration_s = workload.expected_duration_s
        if head is None or not duration_s or self._books.now + duration_s > head.until:
            return None
        fleet = self._books.fleet
        fleet.release(head.held)
        spots = fleet.place(ask)
        if spots is not None:
            taken = loads_of(spots, {group.name: group.demand for group in workload.groups})
            for node, load in head.loads.items():
                if node in taken:
                    load.settle(taken[node])
        self._hold(head)
        return spots

    def behind(self, asks: Sequence[Ask]) -> str | None:
        """For whom the room is kept in which it would fit."""
        books = self._books
        keepers = [*dict.fromkeys(head.workload for ask in asks if (head := self._heads.get(ask.pool)) is not None)]
        reserved = books.reserved.names()
        if not keepers and not reserved:
            return None
        mark = books.fleet.mark()
        for head in {head.workload: head for head in self._heads.values()}.values():
            books.fleet.release(head.held)
        for name in reserved:
            books.lift_reservation(name)
        fits = any(books.fleet.place(ask) is not None for ask in asks)
        books.fleet.undo(mark)
        return f"the room that there is is kept for {', '.join([*keepers, *reserved][:3])}" if fits else None

    def _head(self, workload: Workload, ask: Ask, limit: float | None) -> _Head | None:
        """Where it fits first, if that is before `limit`."""
        books, fleet = self._books, self._books.fleet
        endings = [each for each in self._endings_in(ask.pool) if limit is None or each.at < limit]
        mark = fleet.mark()
        for assignment, indices in books.stopping(ask.pool):
            fleet.release(assignment, indices)
        enough = self._enough(ask, endings)
        spots = fleet.place(ask) if enough is not None else None
        fleet.undo(mark)
        if enough is None or spots is None:
            return None
        loads = loads_of(spots, {group.name: group.demand for group in workload.groups})
        freed: dict[str, Load] = {}
        for each in endings[:enough]:
            here = [one for one in each.slices if one.node in loads]
            if here:
                loads_of(here, {name: ran.demand for name, ran in each.assignment.groups.items()}, freed)
        for assignment, indices in books.stopping(ask.pool):
            demands = {name: ran.demand for name, ran in assignment.groups.items()}
            loads_of([one for one in assignment.slices if one.index in indices], demands, freed)
        for node, load in loads.items():
            if node in freed:
                load.settle(freed[node])
        until = endings[enough - 1].at if enough else books.now
        return _Head(workload.name, until, loads, as_slices(workload.name, ask.pool, loads, books.snapshot))

    def _enough(self, ask: Ask, endings: Sequence[_Ending]) -> int | None:
        """How many must end, in their order, before it fits; these are released then.

        Twice as many each time until that is enough, then halving what lies between; no ending is released twice
        without need, since this is the most that a cycle does where a large gang waits.
        """
        fleet = self._books.fleet
        if self._fits(ask):
            return 0
        low, high = 0, 1
        while True:
            if low == len(endings):
                return None
            high = min(high, len(endings))
            mark = fleet.mark()
            self._release(endings[low:high])
            if self._fits(ask):
                fleet.undo(mark)
                break
            low, high = high, 2 * high
        while low + 1 < high:
            mark, middle = fleet.mark(), (low + high) // 2
            self._release(endings[low:middle])
            if self._fits(ask):
                fleet.undo(mark)
                high = middle
            else:
                low = middle
        self._release(endings[low:high])
        return high

    def _release(self, endings: Sequence[_Ending]) -> None:
        for each in endings:
            self._books.fleet.release(each.assignment, [one.index for one in each.slices])

    def _fits(self, ask: Ask) -> bool:
        fleet = self._books.fleet
        mark = fleet.mark()
        found = fleet.place(ask) is not None
        fleet.undo(mark)
        return found

    def _hold(self, head: _Head) -> None:
        head.held = as_slices(head.workload, head.held.pool, head.loads, self._books.snapshot)
        for each in head.held.slices:
            self._books.fleet.hold(each.node, head.held.groups[each.group].demand, each.devices)

    def _endings_in(self, pool: str) -> list[_Ending]:
        """What runs, in the order in which it is expected to end; what does not say so, oldest first."""
        if pool not in self._endings:
            self._endings[pool] = sorted(
                self._find_endings(pool),
                key=lambda each: (
                    each.at,
                    self._books.snapshot.workloads[each.assignment.workload].assigned_at or 0.0,
                    each.assignment.workload,
                ),
            )
        return self._endings[pool]

    def _find_endings(self, pool: str) -> Iterator[_Ending]:
        books = self._books
        for name, workload in books.snapshot.workloads.items():
            generations = books.snapshot.assignments.get(name)
            if not generations or generations[-1].pool != pool:
                continue
            if books.is_stopping(generations[-1]) or not books.is_settled(name):
                continue
            if workload.state not in (State.ASSIGNED, State.RUNNING):
                continue
            at = inf
            if workload.expected_duration_s and workload.assigned_at is not None:
                at = workload.assigned_at + workload.expected_duration_s
                at = at if at > books.now else books.now + OVERDUE_S
            slices = tuple(running(generations[-1], books.snapshot))
            if slices:
                yield _Ending(at=at, assignment=generations[-1], slices=slices)
