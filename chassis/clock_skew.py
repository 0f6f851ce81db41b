"""How far the clocks of others are from ours: a metric, and a warning that says what to do about it."""

from collections import deque
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import Clock
from chassis.logs import logger
from chassis.telemetry import gauge

log = logger(__name__)

WARN_S: Final = 10.0  # a third of what tokens are allowed to be off (chassis.tokens.LEEWAY_S)
_REMEMBERED: Final = 3
_AGAIN_S: Final = 600.0
_NANOS: Final = 1_000_000_000
_skew = gauge(
    "lepton_clock_skew_seconds",
    "Seconds by which a peer's clock is ahead of ours (OpenTelemetry: lepton.clock.skew, unit s).",
    labels=("peer",),
)
_ADVICE: Final = (
    "one of both clocks is wrong: compare them with `timedatectl` or `chronyc tracking`, and set that one by NTP; "
    "from 30 s on tokens are refused, and hours of grants and certificates are off as well"
)


class ClockSkew:
    """Follows one peer, by the times at which it says that it sends.

    A message that was long under way looks like a clock that is behind, and none looks like one that is ahead. So of
    the last few messages the one that shows the peer farthest ahead was the fastest, and counts.
    """

    def __init__(self, peer: str, clock: Clock) -> None:
        self._peer, self._clock = peer, clock
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)
        self._warned_s: float | None = None  # on the monotonic clock

    @property
    def ahead_s(self) -> float | None:
        """By how much the peer's clock is ahead of ours; None before enough was heard."""
        return max(self._recent) if len(self._recent) == _REMEMBERED else None

    def note(self, sent: Timestamp) -> None:
        """A message that was sent at this time, by the peer's clock, has just come. A peer without times sends none."""
        if not sent.seconds:
            return
        self._recent.append(sent.seconds + sent.nanos / _NANOS - self._clock.now().timestamp())
        if (ahead_s := self.ahead_s) is not None:
            _skew.labels(self._peer).set(ahead_s)
            self._tell(ahead_s)

    def _tell(self, ahead_s: float) -> None:
        now_s = self._clock.monotonic()
        if abs(ahead_s) <= WARN_S:
            if self._warned_s is not None:
                log.info("clocks agree again", peer=self._peer, ahead_s=round(ahead_s, 3))
            self._warned_s = None
        elif self._warned_s is None or now_s - self._warned_s >= _AGAIN_S:
            self._warned_s = now_s
            log.warning("clocks differ", peer=self._peer, ahead_s=round(ahead_s, 3), advice=_ADVICE)
