"""Series in rings: many names sampled together, fine for the last hour and coarser the further back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_FIRST_COLUMNS: Final = 8
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grain:
    """Points so far apart, so many of them."""

    step_s: int
    count: int

    @property
    def span_s(self) -> int:
        """How far back they reach."""
        return self.step_s * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A series: the starts of its windows, in seconds of the wall clock, and the mean of each value in them."""

    step_s: int
    times: NDArray[np.int64]
    values: NDArray[np.float64]  # windows x values


class History:
    """The series of many names. A name that is not sampled any more makes room when room is needed."""

    def __init__(self, grains: Sequence[Grain], width: int, limit: int) -> None:
        self._rings = [_Ring(grain, width) for grain in grains]
        self._width = width
        self._limit = limit
        self._columns: dict[str, int] = {}
        self._seen: dict[str, float] = {}  # when each was last sampled
        self._free: list[int] = []
        self._size = 0

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def size_bytes(self) -> int:
        """How much memory the series take."""
        return sum(ring.size_bytes for ring in self._rings)

    def record(self, at: float, samples: Mapping[str, Sequence[float]], absent: Sequence[float] | None = None) -> None:
        """Take the samples of one moment; `absent`, if given, is that of the known names that are not among them."""
        self._forget(at)
        for name in samples:
            if name in self._columns or self._make_room(at, samples):
                self._seen[name] = at
                if name not in self._columns:
                    self._columns[name] = self._free.pop()
        matrix = np.full((self._size, self._width), np.nan, np.float32)
        chosen = [name for name in samples if name in self._columns]
        if absent is not None:
            matrix[list(self._columns.values())] = absent
        if chosen:
            matrix[[self._columns[name] for name in chosen]] = [samples[name] for name in chosen]
        for ring in self._rings:
            ring.record(at, matrix)

    def read(self, name: str, start: float, now: float, step_s: int = 0) -> Read:
        """A name's points from `start` on, as fine as is kept so far back and not finer than asked for."""
        reaching = [ring for ring in self._rings if now - start <= ring.grain.span_s] or self._rings[-1:]
        coarse = [ring for ring in reaching if ring.grain.step_s <= step_s]
        ring = coarse[-1] if coarse else reaching[0]
        column = self._columns.get(name)
        if column is None:
            return Read(
                step_s=ring.grain.step_s, times=np.empty(0, np.int64), values=np.empty((0, self._width), np.float64)
            )
        return _gathered(ring.read(column, start, now), step_s)

    def _make_room(self, at: float, samples: Mapping[str, Sequence[float]]) -> bool:
        """A free column, at the cost of the name that was sampled the longest ago, but of none that is sampled now."""
        if not self._free and self._size < self._limit:
            before, self._size = self._size, min(self._limit, max(_FIRST_COLUMNS, 2 * self._size, len(samples)))
            self._free = list(range(self._size - 1, before - 1, -1))
            for ring in self._rings:
                ring.widen(self._size)
        if not self._free:
            oldest = min(
                ((seen, name) for name, seen in self._seen.items() if seen < at and name not in samples), default=None
            )
            if oldest is None:
                return False
            self._drop(oldest[1])
        return True

    def _forget(self, at: float) -> None:
        """Drop the names of which no point is left."""
        span_s = self._rings[-1].grain.span_s
        for name in [name for name, seen in self._seen.items() if at - seen > span_s]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        column = self._columns.pop(name)
        del self._seen[name]
        self._free.append(column)
        for ring in self._rings:
            ring.clear(column)


class _Ring:
    """Points of one grain: the mean of the samples that fell into each window."""

    def __init__(self, grain: Grain, width: int) -> None:
        self.grain = grain
        self._windows: NDArray[np.int64] = np.full(grain.count, -1, np.int64)
        self._points: Floats = np.empty((grain.count, 0, width), np.float32)
        self._taken: NDArray[np.int64] = np.zeros(0, np.int64)  # samples in the newest window, by column

    @property
    def size_bytes(self) -> int:
        return self._points.nbytes

    def widen(self, size: int) -> None:
        count, before, width = self._points.shape
        wider: Floats = np.full((count, size, width), np.nan, np.float32)
        wider[:, :before] = self._points
        self._points = wider
        self._taken = np.concatenate([self._taken, np.zeros(size - before, np.int64)])

    def record(self, at: float, matrix: Floats) -> None:
        window = int(at // self.grain.step_s)
        row = window % self.grain.count
        if self._windows[row] != window:
            self._windows[row] = window
            self._points[row] = np.nan
            self._taken[:] = 0
        is_there = ~np.isnan(matrix[:, 0])
        self._taken += is_there
        mean: Any = self._points[row]
        before = np.where((self._taken > 1)[:, None], mean, 0)
        moved = before + (matrix - before) / np.maximum(self._taken, 1)[:, None]
        self._points[row] = np.where(is_there[:, None], moved, mean)

    def read(self, column: int, start: float, now: float) -> Read:
        step_s = self.grain.step_s
        points = self._points[:, column].astype(np.float64)
        is_wanted = (
            (self._windows >= int(start // step_s))
            & (self._windows > int(now // step_s) - self.grain.count)
            & (self._windows <= int(now // step_s))
            & ~np.isnan(points[:, 0])
        )
        rows = np.flatnonzero(is_wanted)
        rows = rows[np.argsort(self._windows[rows], kind="stable")]
        return Read(step_s=step_s, times=self._windows[rows] * step_s, values=points[rows])

    def clear(self, column: int) -> None:
        self._points[:, column] = np.nan
        self._taken[column] = 0


def _gathered(read: Read, step_s: int) -> Read:
    """The means over wider windows."""
    if step_s <= read.step_s or not len(read.times):
        return read
    windows, first = np.unique(read.times // step_s, return_index=True)
    counts = np.diff(np.append(first, len(read.times)))
    values = np.add.reduceat(read.values, first, axis=0) / counts[:, None]
    return Read(step_s=step_s, times=windows * step_s, values=values)
