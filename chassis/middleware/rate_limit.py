"""Rate limits: token buckets by caller, by caller and method, and by project, so that nobody starves the others."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Final
from urllib.parse import unquote

from chassis.call import Call
from chassis.method import Method
from chassis.middleware import Steps
from chassis.principal_rates import PrincipalRates
from chassis.rates import RATES, Kind, Rate, kind_of
from lepton.errors import ResourceExhausted

_STREAM_RETRY_S: Final = 1.0
_CALLER: Final = Rate(per_s=500, burst=1000)
_PROJECT: Final = Rate(per_s=2000, burst=4000)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """How much is let through. A rate of 0 a second means no limit."""

    caller: Rate = _CALLER  # all calls of one principal, or of one address without a token
    project: Rate = _PROJECT  # all calls on what lies in one project
    methods: Mapping[Kind, Rate] = field(default_factory=lambda: RATES)  # of one caller and one method
    caller_streams: int = 512  # open at once
    project_streams: int = 2048


class RateLimit:
    """Refuses what is too much. Peers of the mesh and infrastructure are not limited; without `caller` nobody is."""

    def __init__(
        self, limits: RateLimits | None = None, *, own: PrincipalRates | None = None, max_callers: int = 10_000
    ) -> None:
        self._limits = limits or RateLimits()
        self._own = own
        self._callers = Buckets(self._limits.caller, max_callers)
        self._projects = Buckets(self._limits.project, max_callers)
        self._methods = {kind: Buckets(rate, max_callers) for kind, rate in self._limits.methods.items()}
        self._open: dict[Call, tuple[str, str | None]] = {}
        self._of_caller: Counter[str] = Counter()
        self._of_project: Counter[str] = Counter()

    def bind(self, method: Method) -> Steps:
        """Public methods are counted by the caller's address, all others by principal."""
        limits = self._limits
        if method.is_infrastructure or limits.caller.per_s <= 0:
            return Steps()
        kind = kind_of(method)
        rate = limits.methods[kind]
        # What a caller may do in all bounds each method already, unless the method's own bound is tighter.
        tighter = self._methods[kind] if 0 < rate.per_s < limits.caller.per_s else None
        callers, projects, path = self._callers, self._projects, method.path
        is_stream = method.streams_requests or method.streams_responses

        def enter(call: Call, _request: Any) -> None:
            principal = call.principal
            if principal is None:
                caller = address_of(call.context.peer())
            elif principal.is_peer:
                return
            else:
                caller = principal.name
            now = call.started
            if self._own is not None and principal is not None and (wait_s := self._own.take(caller, now)):
                raise ResourceExhausted("RATE_LIMITED", retry_after_s=wait_s, caller=caller)
            if wait_s := callers.take(caller, now):
                raise ResourceExhausted("RATE_LIMITED", retry_after_s=wait_s, caller=caller)
            if tighter is not None and (wait_s := tighter.take((caller, path), now)):
                raise ResourceExhausted("RATE_LIMITED", retry_after_s=wait_s, caller=caller, method=path)
            if is_stream:
                self._opened(call, caller)

        def receive(call: Call, _request: Any) -> None:
            project = call.project
            if project is None or call.principal is None or call.principal.is_peer:
                return
            if is_stream:
                if call.received > 1:
                    return  # the first message names the project
                self._opened_in(call, project)
            if wait_s := projects.take(project, call.started):
                raise ResourceExhausted("RATE_LIMITED", retry_after_s=wait_s, project=f"projects/{project}")

        return Steps(enter=enter, receive=receive, leave=self._closed if is_stream else None)

    def _opened(self, call: Call, caller: str) -> None:
        most = self._limits.caller_streams
        if self._of_caller[caller] >= most:
            raise ResourceExhausted("STREAMS_EXHAUSTED", retry_after_s=_STREAM_RETRY_S, holder=caller, limit=str(most))
        self._open[call] = caller, None
        self._of_caller[caller] += 1

    def _opened_in(self, call: Call, project: str) -> None:
        most, holder = self._limits.project_streams, f"projects/{project}"
        if self._of_project[project] >= most:
            raise ResourceExhausted("STREAMS_EXHAUSTED", retry_after_s=_STREAM_RETRY_S, holder=holder, limit=str(most))
        self._open[call] = self._open[call][0], project
        self._of_project[project] += 1

    def _closed(self, call: Call) -> None:
        """Every stream leaves; only those that were let in are counted."""
        counted = self._open.pop(call, None)
        if counted is None:
            return
        caller, project = counted
        self._of_caller[caller] -= 1
        if not self._of_caller[caller]:
            del self._of_caller[caller]
        if project is not None:
            self._of_project[project] -= 1
            if not self._of_project[project]:
                del self._of_project[project]


class _Bucket:
    __slots__ = ("level", "seen")

    def __init__(self, level: float, seen: float) -> None:
        self.level = level
        self.seen = seen


class Buckets:
    """Token buckets of one rate, made when they are first asked; at most `most`."""

    def __init__(self, rate: Rate, most: int) -> None:
        self._rate, self._burst, self._most = rate.per_s, rate.burst, most
        self._buckets: dict[Hashable, _Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float) -> float:
        """Takes one call from the bucket of `key`: 0.0, or how many seconds are wanting until there is one."""
        if self._rate <= 0:
            return 0.0
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        level = min(self._burst, bucket.level + (now - bucket.seen) * self._rate)
        bucket.seen = now
        if level < 1.0:
            bucket.level = level
            return (1.0 - level) / self._rate
        bucket.level = level - 1.0
        return 0.0

    def _make_room(self, now: float) -> None:
        if len(self._buckets) < self._most:
            return
        # A bucket that has had time to fill up again holds no information.
        full = [key for key, bucket in self._buckets.items() if (now - bucket.seen) * self._rate >= self._burst]
        for key in full or list(self._buckets)[: max(1, self._most // 10)]:
            del self._buckets[key]


def address_of(peer: str) -> str:
    """Whom an address stands for: a host, and of IPv6 the /64, because who has one address of it has them all.

    `peer` is gRPC's text, such as `ipv4:10.0.0.1:5000` or `ipv6:%5Bfe80::1%5D:5000`.
    """
    host = unquote(peer).rpartition(":")[0]
    if not host.startswith("ipv6:"):
        return host
    try:
        address = IPv6Address(host.removeprefix("ipv6:").strip("[]").partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return f"ipv4:{address.ipv4_mapped}"
    return f"ipv6:{IPv6Address(int(address) >> 64 << 64)}/64"
