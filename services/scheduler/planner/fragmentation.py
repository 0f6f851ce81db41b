"""Expected fragmentation: how much of a node's free devices the tasks that are usually asked for could not use.

After Weng, Yang, Yu, Wang, Tang, Yang, Zhang, "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with
Fragmentation Gradient Descent" (USENIX ATC 2023): a task goes where it raises the expectation least. Beside what a
typical task cannot use at all, it counts what filling the node with tasks of one kind would leave over, so that a lack
of processors or memory shows before the last task fits; and it weighs small tasks more than large ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.scheduler.planner.cell import Cell, Grid
from services.scheduler.planner.fit import RESOURCES, WHOLE, Profile
from services.scheduler.snapshot import Demand

Floats = NDArray[np.float64]
_UNUSABLE: Final = 0.9  # weight of what cannot be used at all; the rest: of what is left over
_RESIDUE: Final = 0.2  # weight of what no mixture of shares could fill of a device
_SIZE_POWER: Final = -1.0  # tasks count by number times size to this power: room for small ones is worth keeping


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """What follows from the distribution alone; nobody writes to its arrays."""

    stranded: Floats  # by level of a device and demand
    holds: Floats
    residue: Floats
    device: Floats
    per_slice: Floats
    weights: Floats
    sizes: Floats


class Fragmentation:
    """The measure under one distribution of demands, for all rows of a grid."""

    def __init__(self, grid: Grid, typical: dict[Demand, float]) -> None:
        self.typical = typical
        self._grid = grid
        self._seen = 0
        self._era = -1
        profiles = [Profile(demand, -1) for demand in typical]
        self._profiles = profiles
        tables = _tables(tuple((each.each, each.devices, each.milli, typical[each.demand]) for each in profiles))
        self._stranded, self._holds, self._residue, self.device = (
            tables.stranded,
            tables.holds,
            tables.residue,
            tables.device,
        )
        self._per_slice, self._weights, self._sizes = tables.per_slice, tables.weights, tables.sizes
        self._limits = [
            (at, *_inverse([each.amounts[at] for each in profiles]))
            for at in range(len(RESOURCES))
            if any(each.amounts[at] for each in profiles)
        ]
        self._width = max((len(build.models) for build in grid.builds), default=0)
        self._accepts = np.array(
            [[not each.models or bool(each.models & set(build.models)) for each in profiles] for build in grid.builds],
            float,
        ).reshape(len(grid.builds), len(profiles))
        self._are_all_accepted = bool(self._accepts.all())
        self._size = 0
        self._grow(64)

    def gains(self, profile: Profile) -> Floats:
        """By level of a device: what taking a share of it adds to the fragmentation of the device alone."""
        found = np.full(WHOLE + 1, np.inf)
        found[profile.each :] = self.device[: WHOLE + 1 - profile.each] - self.device[profile.each :]
        return found

    def level(self, profile: Profile, cell: Cell) -> int:
        """The level of the device of which a share is best taken."""
        device, each = self.device, profile.each
        return min(
            (
                left
                for left, model in zip(cell.free, cell.build.models, strict=True)
                if each <= left <= WHOLE and profile.suits(model)
            ),
            key=lambda left: (device[left - each] - device[left], left),
        )

    def deltas(self, profile: Profile, rows: NDArray[np.intp], gains: Floats | None) -> tuple[Floats, NDArray[Any]]:
        """What one slice adds to the fragmentation of a node of each row, and the level of the device to take."""
        self._sync()
        # A build of several models is measured as if all its devices were of any of them.
        stranded, holds = self._row_stranded[rows], self._row_holds[rows]
        total = self._row_total[rows] - profile.milli
        amounts = self._row_amounts[rows]
        levels: NDArray[Any] = np.full(len(rows), WHOLE)
        extra: Floats | float = 0.0
        if gains is not None:
            at = self._row_levels[rows]
            choice = gains[at].argmin(axis=1)
            levels = at[np.arange(len(rows)), choice]
            left = levels - profile.each
            stranded += self._stranded[left] - self._stranded[levels]
            holds += self._holds[left] - self._holds[levels]
            extra = self._residue[left] - self._residue[levels]
        elif profile.devices:
            holds -= profile.devices * self._holds[WHOLE]
        after = self._measure(stranded, holds, total, amounts - np.array(profile.amounts), self._row_build[rows])
        return after - self._row_value[rows] + extra, levels

    def _measure(
        self, stranded: Floats, holds: Floats, total: Floats, amounts: Floats, builds: NDArray[np.intp]
    ) -> Floats:
        slices = np.floor(holds * self._per_slice)
        for at, inverse, beyond in self._limits:
            np.minimum(slices, np.floor(amounts[:, at, None] * inverse + beyond), out=slices)
        if not self._are_all_accepted:
            slices *= self._accepts[builds]
        unusable = np.where(slices >= 1.0, stranded, total[:, None]) @ self._weights
        left_over = total - np.maximum(slices, 0.0) @ self._sizes
        found: Floats = _UNUSABLE * unusable + (1 - _UNUSABLE) * left_over
        return found

    def _sync(self) -> None:
        """Take in the rows that have changed."""
        grid = self._grid
        if self._era != grid.era:
            self._era, changed = grid.era, range(len(grid.rows))
        elif self._seen == len(grid.log):
            return
        else:
            changed = sorted(set(grid.log[self._seen :]))  # type: ignore[assignment]
        self._seen = len(grid.log)
        if len(grid.rows) > self._size:
            self._grow(2 * len(grid.rows))
        live = [(row, cell) for row in changed if (cell := grid.rows[row]) is not None]
        if not live:
            return
        rows = np.array([row for row, _ in live])
        levels = np.zeros((len(live), self._width), np.intp)
        for at, (_, cell) in enumerate(live):
            levels[at, : len(cell.free)] = cell.free
        np.clip(levels, 0, WHOLE, out=levels)
        stranded, holds = self._stranded[levels].sum(axis=1), self._holds[levels].sum(axis=1)
        amounts = np.array([cell.amounts for _, cell in live], float)
        builds = np.array([cell.key[0] for _, cell in live])
        total = levels.sum(axis=1).astype(float)
        self._row_levels[rows], self._row_stranded[rows], self._row_holds[rows] = levels, stranded, holds
        self._row_amounts[rows], self._row_total[rows], self._row_build[rows] = amounts, total, builds
        self._row_value[rows] = self._measure(stranded, holds, total, amounts, builds)

    def _grow(self, size: int) -> None:
        kinds = len(self._weights)
        before = self._size
        self._size = size
        for name, width, dtype in (
            ("_row_levels", (self._width,), np.intp),
            ("_row_stranded", (kinds,), float),
            ("_row_holds", (kinds,), float),
            ("_row_amounts", (len(RESOURCES),), float),
            ("_row_total", (), float),
            ("_row_build", (), np.intp),
            ("_row_value", (), float),
        ):
            array = np.zeros((size, *width), dtype)
            if before:
                array[:before] = getattr(self, name)
            setattr(self, name, array)

    _row_levels: NDArray[np.intp]
    _row_stranded: Floats
    _row_holds: Floats
    _row_amounts: Floats
    _row_total: Floats
    _row_build: NDArray[np.intp]
    _row_value: Floats


def tightness(cell: Cell) -> float:
    """Least where least is left: of devices first, then processors, then memory."""
    return cell.total + cell.amounts[0] * 1e-8 + cell.amounts[1] * 1e-19


def _inverse(needs: Sequence[int]) -> tuple[Floats, Floats]:
    """Factors and summands that turn what is free into how many fit; what needs nothing fits without end."""
    return (
        np.array([1.0 / need if need else 0.0 for need in needs]),
        np.array([1e-9 if need else 1e9 for need in needs]),
    )


@lru_cache(maxsize=64)
def _tables(typical: tuple[tuple[int, int, int, float], ...]) -> _Tables:
    """Of demands as (of each device, devices, of all, how frequent)."""
    needs = np.array([each for each, *_ in typical], float)
    weights = np.array([share * (milli / WHOLE) ** _SIZE_POWER for _, _, milli, share in typical])
    weights /= weights.sum()
    levels = np.arange(WHOLE + 1, dtype=float)[:, None]
    stranded, holds = np.where(levels < needs, levels, 0.0), np.floor(levels / needs)
    residue = _RESIDUE * _residues(frozenset(milli for _, _, milli, _ in typical if milli <= WHOLE))
    return _Tables(
        stranded=stranded,
        holds=holds,
        residue=residue,
        device=(_UNUSABLE * stranded + (1 - _UNUSABLE) * (levels - holds * needs)) @ weights + residue,
        per_slice=1.0 / np.array([devices for _, devices, *_ in typical], float),
        weights=weights,
        sizes=weights * np.array([milli for _, _, milli, _ in typical], float),
    )


@lru_cache(maxsize=64)
def _residues(shares: frozenset[int]) -> Floats:
    """By level of a device: what no mixture of the typical shares could use of it."""
    fills = [True] + [False] * WHOLE
    found, best = np.zeros(WHOLE + 1), 0
    for level in range(1, WHOLE + 1):
        fills[level] = any(share <= level and fills[level - share] for share in shares)
        best = level if fills[level] else best
        found[level] = level - best
    return found
