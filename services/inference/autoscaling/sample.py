"""The load of one deployment at one moment, as all gateways and replicas told it together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was measured between the sample before and this one."""

    at: float
    """Monotonic seconds."""
    in_flight: float = 0.0
    """Calls in flight at all gateways, averaged; those that are held are among them."""
    requests_per_s: float = 0.0
    held: int = 0
    ready: int = 0
    """Replicas that answer."""
    queue_delay_s: float | None = None
    """What a request waited in the replicas' queues in the mean; None = no replica told."""
    busy: float | None = None
    """The time in which replicas computed, per second and replica: 1.5 = one and a half of them did all the time."""
    is_complete: bool = True
    """Every gateway told its load."""

    @property
    def is_called(self) -> bool:
        """Whether anybody wanted anything of it."""
        return self.in_flight > 0 or self.requests_per_s > 0 or self.held > 0


def since(samples: Sequence[Sample], at: float) -> tuple[Sample, ...]:
    """Those that were taken after a moment; the newest is among them in any case."""
    kept = tuple(each for each in samples if each.at > at)
    return kept or tuple(samples[-1:])


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known; None when none is."""
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None
