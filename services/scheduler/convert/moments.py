"""Between stamps on the wire, the wall clock, and the planner's monotonic clock."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import Clock

Moment: TypeAlias = Callable[[Timestamp], float]  # a wall-clock stamp as seconds of the planner's monotonic clock


def moments(clock: Clock) -> Moment:
    """Converts stamps as of now: what lies in the past stays as long ago as it is by the wall clock."""
    offset = clock.monotonic() - clock.now().timestamp()
    return lambda stamp: stamp.ToNanoseconds() / 1e9 + offset


def timestamp(moment: datetime) -> Timestamp:
    """A moment on the wire."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def stamp_of(seconds: float) -> Timestamp | None:
    """A moment of the wall clock to the microsecond; none where it is 0."""
    if not seconds:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp
