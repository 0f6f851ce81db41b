"""Tries changes out: whether a workload would be placed if something were different, by really running the planner."""

from collections.abc import Callable

from services.scheduler.explain.changes import Change
from services.scheduler.explain.rehearsal import PLACED, Budget, Rehearsal, rehearse
from services.scheduler.explain.what_if import apply
from services.scheduler.snapshot import Reason, Snapshot, State, Workload


class Trial:
    """One waiting workload on one snapshot."""

    def __init__(self, snapshot: Snapshot, name: str, now: float, budget: Budget) -> None:
        self.snapshot = snapshot
        self.workload: Workload = snapshot.workloads[name]
        self.now = now
        self.base = rehearse(snapshot, now, budget)
        self._budget = budget
        self._known: dict[tuple[Change, ...], bool] = {}

    def admits(self, *changes: Change) -> bool:
        """Whether the planner places the workload once these are made, in this order. Raises OutOfBudgetError."""
        if changes not in self._known:
            changed = self.snapshot
            for each in changes:
                changed = apply(changed, each, self.now)
            self._known[changes] = self.is_placed(rehearse(changed, self.now, self._budget))
        return self._known[changes]

    def is_placed(self, rehearsal: Rehearsal) -> bool:
        """Whether it has all that it asks for there: a place, and nothing that it still waits for."""
        after = rehearsal.workload(self.workload.name)
        if after is None or after.state not in PLACED:
            return False
        return self.workload.state is State.PENDING or after.reason is Reason.NONE


def smallest(first: int, limit: int, ok: Callable[[int], bool]) -> int | None:
    """A number from `first` to `limit` that will do although the one below it will not, by doubling and halving."""
    if first > limit:
        return None
    low, high, step = first - 1, first, 1
    while not ok(high):
        if high == limit:
            return None
        low, high, step = high, min(limit, high + step), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ok(middle) else (middle, high)
    return high


def largest(floor: int, below: int, ok: Callable[[int], bool]) -> int | None:
    """A number from `floor` to `below` - 1 that will do although the one above it will not; `below` will not."""
    if floor >= below or not ok(floor):
        return None
    low, high = floor, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ok(middle) else (low, middle)
    return low
