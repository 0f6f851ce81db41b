"""Owns the decision that a node must stop its slices by itself: pure, over seconds of a clock that never jumps."""

import time
from dataclasses import dataclass
from typing import Final

from chassis.clock import SystemClock

_MARGIN_S: Final = 2.0
_MARGIN_SHARE: Final = 0.2  # of the time to live, when that is short


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What the node knows of its lease: how long it lives, and when the last acknowledged sign of life was sent.

    Sent, not acknowledged: the scheduler counts from a moment that cannot be earlier than that.
    """

    ttl_s: float
    sent_s: float

    @property
    def due_s(self) -> float:
        """When the slices must be dead."""
        return self.sent_s + self.ttl_s - min(_MARGIN_S, self.ttl_s * _MARGIN_SHARE)

    def is_due(self, now_s: float) -> bool:
        """Whether that moment has come."""
        return now_s >= self.due_s

    def renewed(self, sent_s: float) -> "Fence":
        """The fence after the acknowledgement of a heartbeat that was sent then; a late one changes nothing."""
        return Fence(ttl_s=self.ttl_s, sent_s=max(self.sent_s, sent_s))


class BootClock(SystemClock):
    """The machine's clock with intervals that count suspension too: a laptop's lid must not stop the fence."""

    def monotonic(self) -> float:
        """Seconds since boot, asleep or awake."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
