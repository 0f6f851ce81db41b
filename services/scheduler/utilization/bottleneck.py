"""What limits a pool, node, queue or project: the trend of each resource's use, and the one that is short, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.scheduler.units import amount_of

_SHORT_SHARE: Final = 0.9  # used so far, a resource counts as short though nothing waits for it
_NOTABLE_SLOPE: Final = 0.005  # share an hour below which a trend is not worth a word
_LEAST_SPAN_S: Final = 600  # of less time a slope says more about the last job than about the days to come
_RECENT: Final = 6  # points whose mean is the present
_SOON_H: Final = 48.0

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One resource over time."""

    resource: str
    capacity: float  # 0 = not bounded
    times: NDArray[np.int64]
    allocated: Values
    used: Values
    wanted: Values

    @property
    def shares(self) -> Values:
        """The share in use at each point: what is allocated, or what is really used where that is more."""
        in_use = np.maximum(self.allocated, self.used)
        return in_use / self.capacity if self.capacity > 0 else np.zeros_like(in_use)

    @property
    def share(self) -> float:
        """The share in use at present."""
        return _recent(self.shares)

    @property
    def waiting(self) -> float:
        """What is waited for at present."""
        return _recent(self.wanted)

    @property
    def trend_per_hour(self) -> float:
        """How the share in use changes per hour; 0 while too little time is known."""
        if not len(self.times) or self.times[-1] - self.times[0] < _LEAST_SPAN_S:
            return 0.0
        return slope_per_hour(self.times, self.shares)

    @property
    def is_short(self) -> bool:
        """Whether more is waited for than is free, or hardly anything is free."""
        if self.capacity <= 0 or not len(self.times):
            return False
        return self.share >= _SHORT_SHARE or self.waiting > (1.0 - self.share) * self.capacity

    @property
    def weight(self) -> float:
        """Orders the bottlenecks: the share in use, the more for what waits."""
        return self.share * (1.0 + self.waiting / self.capacity) if self.capacity > 0 else 0.0


def slope_per_hour(times: NDArray[np.int64], values: Values) -> float:
    """The slope of the line of least squares through the points."""
    if len(times) < 2:
        return 0.0
    hours = (times - times[0]) / 3600.0
    centred = hours - hours.mean()
    spread = float(centred @ centred)
    return float(centred @ (values - values.mean())) / spread if spread > 0 else 0.0


def bottleneck(uses: Sequence[Use]) -> Use | None:
    """The resource that limits: of those that are short the one with the greatest weight, then the first by name."""
    short = sorted((each for each in uses if each.is_short), key=lambda each: (-each.weight, each.resource))
    return short[0] if short else None


def sentence(name: str, uses: Sequence[Use]) -> str:
    """The bottleneck in words and numbers."""
    bounded = sorted((each for each in uses if each.capacity > 0), key=lambda each: (-each.share, each.resource))
    if not any(len(each.times) for each in uses):
        return f"Nothing is known of {name} in this time."
    if not bounded:
        return f"{name} has no limit of its own."
    found = bottleneck(uses)
    if found is None:
        most = bounded[0]
        return f"Nothing is short in {name}: of {_what(most)} most is in use, {_state(most)}{_course(most)}."
    waiting = f", and {amount_of(found.resource, found.waiting)} more is waited for" if found.waiting > 0 else ""
    return f"{_what(found).capitalize()} limits {name}: {_state(found)}{waiting}{_course(found)}."


def _what(use: Use) -> str:
    return _WORDS[use.resource]


def _state(use: Use) -> str:
    parts = [f"{amount_of(use.resource, _recent(use.allocated))} allocated"]
    if _recent(use.used) > 0:
        parts.append(f"{amount_of(use.resource, _recent(use.used))} really used")
    return f"{100 * use.share:.0f} % of {amount_of(use.resource, use.capacity)} ({', '.join(parts)})"


def _course(use: Use) -> str:
    """Where it is going, and when it is full if it goes on so."""
    slope = use.trend_per_hour
    if abs(slope) < _NOTABLE_SLOPE:
        return ""
    course = f"; it {'rises' if slope > 0 else 'falls'} by {abs(100 * slope):.1f} points an hour"
    left_h = (1.0 - use.share) / slope if slope > 0 else -1.0
    return course + (f" and is full in {left_h:.1f} h at that rate" if 0 < left_h < _SOON_H else "")


def _recent(values: Values) -> float:
    return float(values[-_RECENT:].mean()) if len(values) else 0.0


_WORDS: Final = {
    "cpu_milli": "processor time",
    "memory_bytes": "memory",
    "storage_bytes": "storage",
    "network_mbps": "network",
    "device_milli": "the number of devices",
}
