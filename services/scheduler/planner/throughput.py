"""How fast a workload goes with so many slices: a curve with diminishing returns, fitted to what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PRIOR_DRAG: Final = 0.05  # without measurements: 2 slices do the work of 1.9, 8 that of 5.9, 32 that of 12.5
_PRIOR_WEIGHT: Final = 0.5  # the prior counts as half a measurement


@dataclass(frozen=True, slots=True)
class Throughput:
    """`n` slices do the work of `n / (1 + drag * (n - 1))` slices that have nothing to tell each other."""

    drag: float = PRIOR_DRAG

    @classmethod
    def fitted(cls, measured: Sequence[tuple[int, float]]) -> "Throughput":
        """The curve nearest to the measurements (slices, samples per second), and to the prior where they say little.

        The time that one sample costs, `n / samples_per_s`, is a straight line in `n - 1`; its slope over its offset is
        the drag. Least squares, with the prior's slope as one more observation.
        """
        points = [(float(count - 1), count / speed) for count, speed in measured if count > 0 and speed > 0]
        if len({x for x, _ in points}) < 2:
            return cls()
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
        offset = mean_y - slope * mean_x
        if offset <= 0:
            return cls(1.0)  # more slices cost as much as they bring
        weight = _PRIOR_WEIGHT / (len(points) + _PRIOR_WEIGHT)
        drag = (1 - weight) * slope / offset + weight * PRIOR_DRAG
        return cls(min(1.0, max(0.0, drag)))

    def work(self, slices: int) -> float:
        """What so many slices do, in slices that stand alone."""
        return slices / (1.0 + self.drag * (slices - 1)) if slices > 0 else 0.0

    def gain(self, slices: int, more: int = 1) -> float:
        """What `more` slices bring beside so many."""
        return self.work(slices + more) - self.work(slices)
