"""Rate limits: a token bucket per caller, so that no caller starves the others."""

from typing import Any

from chassis.call import Call
from chassis.method import Method
from chassis.middleware import Steps
from lepton.errors import ResourceExhausted


class _Bucket:
    __slots__ = ("level", "seen")

    def __init__(self, level: float, seen: float) -> None:
        self.level = level
        self.seen = seen


class RateLimit:
    """Allows `rate_per_s` calls with bursts of `burst`; peers of the mesh and infrastructure are not limited."""

    def __init__(self, *, rate_per_s: float = 500.0, burst: float = 1000.0, max_callers: int = 10_000) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._max_callers = max_callers
        self._buckets: dict[str, _Bucket] = {}

    def bind(self, method: Method) -> Steps:
        """Public methods are counted by the caller's address, all others by principal."""
        if method.is_infrastructure or self._rate <= 0:
            return Steps()
        return Steps(enter=self._take)

    def _take(self, call: Call, _request: Any) -> None:
        principal = call.principal
        if principal is None:
            caller = call.context.peer().rpartition(":")[0]
        elif principal.is_peer:
            return
        else:
            caller = principal.name
        now = call.started
        bucket = self._buckets.get(caller)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[caller] = _Bucket(self._burst, now)
        level = min(self._burst, bucket.level + (now - bucket.seen) * self._rate)
        bucket.seen = now
        if level < 1.0:
            bucket.level = level
            raise ResourceExhausted("RATE_LIMITED", retry_after_s=(1.0 - level) / self._rate, caller=caller)
        bucket.level = level - 1.0

    def _make_room(self, now: float) -> None:
        if len(self._buckets) < self._max_callers:
            return
        # A bucket that has had time to fill up again holds no information.
        full = [caller for caller, bucket in self._buckets.items() if (now - bucket.seen) * self._rate >= self._burst]
        for caller in full or list(self._buckets)[: self._max_callers // 10]:
            del self._buckets[caller]
