"""The load that comes again every day: exponential smoothing with a season, and what it expects of the time ahead.

The method is Holt-Winters' with an additive season and without a trend: P. R. Winters, "Forecasting Sales by
Exponentially Weighted Moving Averages", Management Science 6 (1960); as in Hyndman and Athanasopoulos, "Forecasting:
Principles and Practice", 3rd ed., section 8.3, equations for l_t and s_t with b_t = 0. The first season is taken as it
comes (seasonal naive). A time ahead is answered by the expectation plus one standard error of what was expected before,
so that a noisy load is not met too late half of the time.
"""

from dataclasses import dataclass, field, replace
from typing import Final

LEVEL_GAIN: Final = 0.002
SEASON_GAIN: Final = 0.3
ERROR_GAIN: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Season:
    """What was seen of a load, in buckets of equal time; `slots` of them are one season (a day of minutes: 1,440)."""

    slots: int
    bucket: int = -1
    """The number of the newest bucket that was seen, counted from 1970; -1 = none."""
    seen: int = 0
    """How many buckets were seen."""
    level: float = 0.0
    seasonal: tuple[float, ...] = field(default=())
    """What each slot is above or below the level."""
    variance: float = 0.0
    """The mean squared error of what was expected of a bucket one season ahead."""

    @classmethod
    def empty(cls, slots: int) -> "Season":
        """Nothing was seen."""
        if slots < 2:
            raise ValueError("a season has at least two slots")
        return cls(slots=slots, seasonal=(0.0,) * slots)

    @property
    def is_known(self) -> bool:
        """Whether a whole season was seen, so that something can be expected."""
        return self.seen >= self.slots

    def see(self, bucket: int, load: float) -> "Season":
        """With one more bucket; one that is not newer changes nothing, those left out are not guessed."""
        if bucket <= self.bucket:
            return self
        slot = bucket % self.slots
        seasonal = list(self.seasonal)
        if not self.is_known:
            seasonal[slot] = load
            return replace(self, bucket=bucket, seen=self.seen + 1, seasonal=tuple(seasonal))
        error = load - (self.level + seasonal[slot])
        level = self.level + LEVEL_GAIN * error
        seasonal[slot] += SEASON_GAIN * (load - self.level - seasonal[slot])
        variance = self.variance + ERROR_GAIN * (error * error - self.variance)
        return replace(self, bucket=bucket, level=level, seasonal=tuple(seasonal), variance=variance)

    def expect(self, first: int, last: int) -> float:
        """The most that the buckets from `first` to `last` will bring; 0 as long as no season was seen."""
        if not self.is_known:
            return 0.0
        last = min(last, first + self.slots - 1)
        highest = max(self.level + self.seasonal[bucket % self.slots] for bucket in range(first, last + 1))
        return float(max(0.0, highest + self.variance**0.5))
