"""How fast something gets on, and when it will be done, from what was seen lately; pure.

The rate is the interquartile mean of the slopes between samples that lie a quarter of the record apart. One stall, for
example a slow checkpoint, is in few of them and is left out; stalls that come again and again are in most, and count.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

_SAMPLES: Final = 49
_SPACING_S: Final = 12.0
"""The most between two samples: together they reach back ten minutes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How far it was at a time."""

    at_s: float
    done: float


@dataclass(slots=True)
class Course:
    """The last ten minutes of something, in at most 49 samples, evenly spaced."""

    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    since_s: float = 0.0

    def add(self, sample: Sample) -> None:
        """Take a sample; one that goes back begins a new course, as a run does that goes on from a checkpoint."""
        kept = self.samples
        if kept and (sample.done < kept[-1].done or sample.at_s < kept[-1].at_s):
            kept.clear()
        if not kept:
            self.since_s = sample.at_s
        if len(kept) >= 2:
            spacing = min(_SPACING_S, (sample.at_s - self.since_s) / (_SAMPLES - 1))
            if sample.at_s - kept[-2].at_s < spacing:
                kept.pop()  # the newest is always there, whatever its distance
        kept.append(sample)

    def rate(self) -> float:
        """Units a second; 0 when nothing is known."""
        kept = list(self.samples)
        apart = max(1, len(kept) // 4)
        slopes = sorted(
            (later.done - earlier.done) / (later.at_s - earlier.at_s)
            for earlier, later in zip(kept, kept[apart:], strict=False)
            if later.at_s > earlier.at_s
        )
        left_out = len(slopes) // 4
        return fmean(slopes[left_out : len(slopes) - left_out]) if slopes else 0.0

    def remaining_s(self, total: float) -> float:
        """Seconds until `total` is reached; 0 when nothing is known, or it is reached."""
        rate = self.rate()
        if rate <= 0 or not self.samples:
            return 0.0
        return max(0.0, (total - self.samples[-1].done) / rate)
