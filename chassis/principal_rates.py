"""How often a principal may call, as the policy's limits say: a token bucket for each that has a limit of its own."""

from collections.abc import Callable
from typing import Final

from chassis.principal_limits import Allowance

_BURST_S: Final = 2.0  # seconds' worth of calls that may come at once; one call may always


class PrincipalRates:
    """Counts calls of the principals that the policy limits; what is not limited is not remembered."""

    def __init__(self, allowance_of: Callable[[str], Allowance], max_callers: int = 10_000) -> None:
        self._allowance_of = allowance_of
        self._max_callers = max_callers
        self._levels: dict[str, tuple[float, float]] = {}  # calls left, and when that was (monotonic seconds)

    def take(self, principal: str, now: float) -> float:
        """Takes one call: 0.0, or how many seconds are wanting until there is one."""
        rate = self._allowance_of(principal).requests_per_s
        if rate is None:
            return 0.0
        burst = max(1.0, rate * _BURST_S)
        level, seen = self._levels.get(principal, (burst, now))
        level = min(burst, level + (now - seen) * rate)
        is_let_in = level >= 1.0
        if principal not in self._levels and len(self._levels) >= self._max_callers:
            del self._levels[next(iter(self._levels))]  # the oldest begins anew, with a full bucket
        self._levels[principal] = (level - 1.0 if is_let_in else level, now)
        return 0.0 if is_let_in else (1.0 - level) / rate
