"""A view of the grid: where one demand would go best, kept up to date by the changes alone."""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

import numpy as np

from services.scheduler.planner.cell import Cell, Grid, Key
from services.scheduler.planner.fit import WHOLE, Filter, Profile
from services.scheduler.planner.fragmentation import Floats, Fragmentation, tightness

_LAST_RESORT: Final = 1e12
_FEW: Final = 20_000
_MANY: Final = 10_000  # slices on one node: beyond, more are not better
WIDEST: Final = 0  # instead of a number of slices: the node that holds most of them

_Entry = tuple[float, Key, int, Cell]  # score, the order of equals, the level of the device to take, the cell


class View:
    """For one demand, the cell that takes it best.

    One slice goes where it adds least fragmentation. Several that must be on one node go to the tightest that holds
    them all. The widest is that on which most fit, of those the tightest. Equal ones are taken in the order of what is
    free on them, so that the choice depends on the state of the fleet and not on how it came about.
    """

    def __init__(self, grid: Grid, profile: Profile, choice: Filter, slices: int) -> None:
        self._grid = grid
        self._profile = profile
        self._filter = choice
        self._slices = slices
        self._measure: Fragmentation | None = None
        self._gains: Floats | None = None
        self._era = -1
        self._seen = 0
        self._heap: list[_Entry] = []  # cells that have lost their nodes are dropped when they come up
        self._queued: set[Cell] = set()  # those in the heap
        self._known: dict[Cell, tuple[float, int] | None] = {}  # score and level; None: it does not fit
        self._ranks: dict[int, int | None] = {}

    def best(self, measure: Fragmentation) -> tuple[Cell, int] | None:
        """The cell whose nodes take it best, and the level of the device to take."""
        grid, heap = self._grid, self._heap
        if self._era != grid.era or measure is not self._measure or len(heap) > 2 * len(grid.rows) + 64:
            heap = self._begin(measure)
        elif self._seen != len(grid.log):
            changed = grid.log[self._seen :]
            self._update(changed if len(changed) == 1 else sorted(set(changed)))
        self._seen = len(grid.log)
        while heap:
            cell = heap[0][3]
            if cell.size:
                return cell, heap[0][2]
            self._queued.discard(cell)
            heappop(heap)
        return None

    def ranking(self, measure: Fragmentation) -> list[Cell]:
        """All cells that take it, best first."""
        self.best(measure)
        return [cell for *_, cell in sorted(self._heap) if cell.size]

    def _begin(self, measure: Fragmentation) -> list[_Entry]:
        grid = self._grid
        if measure is not self._measure:
            self._measure = measure
            self._known.clear()
            self._ranks.clear()
            is_share = self._profile.devices and self._profile.each < WHOLE
            self._gains = measure.gains(self._profile) if is_share else None
        self._era = grid.era
        self._heap.clear()
        self._queued.clear()
        self._update(range(len(grid.rows)))
        return self._heap

    def _update(self, rows: Iterable[int]) -> None:
        grid, known, queued = self._grid, self._known, self._queued
        fresh: list[Cell] = []
        for row in rows:
            cell = grid.rows[row]
            if cell is None or cell in queued:
                continue
            if cell not in known:
                if self._fits(cell):
                    fresh.append(cell)
                else:
                    known[cell] = None
            elif (found := known[cell]) is not None:
                queued.add(cell)
                heappush(self._heap, (found[0], cell.key, found[1], cell))
        if fresh:
            self._score(fresh)

    def _fits(self, cell: Cell) -> bool:
        profile = self._profile
        cpu, memory, storage, network = profile.amounts
        has_cpu, has_memory, has_storage, has_network = cell.amounts
        if has_cpu < cpu or has_memory < memory or has_storage < storage or has_network < network:
            return False
        if profile.devices and (cell.top < profile.each or (profile.each == WHOLE and cell.whole < profile.devices)):
            return False
        if self._rank(cell) is None:
            return False
        if profile.models or self._slices > 1:
            return cell.count(profile) >= max(1, self._slices)
        return True

    def _rank(self, cell: Cell) -> int | None:
        build = cell.key[0]
        if build not in self._ranks:
            self._ranks[build] = self._filter.rank(cell.build)
        return self._ranks[build]

    def _score(self, fresh: list[Cell]) -> None:
        measure, profile = self._measure, self._profile
        assert measure is not None
        if len(self._known) > _FEW:
            self._known.clear()
        if self._slices == 1:
            deltas, levels = measure.deltas(profile, np.array([cell.row for cell in fresh]), self._gains)
            found = list(zip(np.round(deltas, 6).tolist(), levels.tolist(), strict=True))
        else:
            found = [(0.0, WHOLE)] * len(fresh)
        for cell, (score, level) in zip(fresh, found, strict=True):
            if self._slices == WIDEST:
                score = -1e6 * min(cell.count(profile), _MANY)
            score += tightness(cell) * (1e-9 if self._slices == 1 else 1.0)
            if self._ranks[cell.key[0]]:
                score += _LAST_RESORT
            if self._gains is not None and (profile.models or self._slices != 1):
                level = measure.level(profile, cell)
            self._known[cell] = (score, level)
            self._queued.add(cell)
            heappush(self._heap, (score, cell.key, level, cell))
