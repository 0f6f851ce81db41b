"""What is measured while simulated time passes: use, waiting, fragmentation and fairness, as integrals over time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.scheduler.simulator.job import WHOLE


@dataclass(slots=True, kw_only=True)
class Meter:
    """Integrals; the amounts of one moment hold until the next."""

    since: float = 0.0
    capacity: float = 0.0  # device-seconds that were there
    busy: float = 0.0  # of those, taken
    contended_capacity: float = 0.0  # the same while something waited
    contended_busy: float = 0.0
    contended_s: float = 0.0
    queued: float = 0.0  # waiting workloads x seconds
    most_queued: int = 0
    free: float = 0.0  # device-seconds wholly free while something waited
    stranded: float = 0.0  # of those, on nodes where the workload's typical slice does not fit
    due: dict[str, float] = field(default_factory=dict)  # project -> device-seconds of its fair share
    served: dict[str, float] = field(default_factory=dict)  # of those, what it had

    def advance(
        self,
        now: float,
        *,
        used: float,
        capacity: float,
        waiting: int,
        free: float,
        stranded: float,
        shares: Mapping[str, float],
        use: Mapping[str, float],
    ) -> None:
        """Count the time since the last moment with the amounts that held during it; all in devices."""
        seconds = now - self.since
        self.since = now
        if seconds <= 0:
            return
        self.capacity += capacity * seconds
        self.busy += used * seconds
        self.queued += waiting * seconds
        self.most_queued = max(self.most_queued, waiting)
        if not waiting:
            return
        self.contended_s += seconds
        self.contended_capacity += capacity * seconds
        self.contended_busy += used * seconds
        self.free += free * seconds
        self.stranded += stranded * seconds
        for project, share in shares.items():
            self.due[project] = self.due.get(project, 0.0) + share * seconds
            has = min(share, use.get(project, 0.0))
            self.served[project] = self.served.get(project, 0.0) + has * seconds


def fair_shares(demands: Mapping[str, float], capacity: float, weights: Mapping[str, float]) -> dict[str, float]:
    """Weighted max-min fairness: nobody gets more than it wants, what one leaves the others share by weight."""
    shares: dict[str, float] = {}
    wanting = [(wants / weights.get(name, 1.0), name) for name, wants in demands.items() if wants > 0]
    left, total = capacity, sum(weights.get(name, 1.0) for _, name in wanting)
    # The one with the least demand for its weight is satisfied first, if the level reaches it at all.
    for level, name in sorted(wanting):
        weight = weights.get(name, 1.0)
        shares[name] = weight * min(level, left / total)
        left -= shares[name]
        total -= weight
    return shares


def stranded(free_levels: Mapping[int, int], sizes: Mapping[int, float]) -> tuple[float, float]:
    """Wholly free devices, and the expected part of them on nodes where a slice of these sizes does not fit.

    `free_levels`: free devices -> nodes; `sizes`: devices of a slice -> how likely such a slice is.
    """
    free = sum(level * nodes for level, nodes in free_levels.items())
    unfit = {level: sum(part for size, part in sizes.items() if size > level) for level in free_levels}
    return float(free), sum(level * nodes * unfit[level] for level, nodes in free_levels.items())


def jain(values: Mapping[str, float]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything; 1 of nothing."""
    squares = sum(each * each for each in values.values())
    return sum(values.values()) ** 2 / (len(values) * squares) if squares else 1.0


def devices(milli: float) -> float:
    """Thousandths of devices as devices."""
    return milli / WHOLE
