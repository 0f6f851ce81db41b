"""How many replicas each target asks for; pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.inference.autoscaling.sample import Sample, mean
from services.inference.autoscaling.spec import Spec

TOLERANCE: Final = 0.1
"""A measurement within a tenth of its target is on target, as in Kubernetes' horizontal autoscaler."""
MOST_GROWTH: Final = 2.0
"""What a delay says of the load is vague: it asks for so many times what is ready at the most."""
COMFORTABLE: Final = 0.7
"""By the queue's delay no replica is taken away when the rest would compute for a larger share of the time."""
_SAME_LOAD: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A number of replicas, and why."""

    count: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TooFew:
    """So many replicas were too few for this load: they are not tried again as long as it stays."""

    count: int
    requests_per_s: float

    def holds(self, requests_per_s: float) -> bool:
        """Whether the load is still (about) as large."""
        return requests_per_s >= _SAME_LOAD * self.requests_per_s


def proposals(spec: Spec, samples: Sequence[Sample], desired: int, too_few: TooFew | None) -> Iterator[Proposal]:
    """What each target asks for, by the means over these samples."""
    ready = samples[-1].ready
    if spec.in_flight:
        load = mean(each.in_flight for each in samples) or 0.0
        yield _share(load, spec.in_flight, f"{load:.3g} calls in flight, {spec.in_flight:g} for each replica")
    if spec.requests_per_s:
        load = mean(each.requests_per_s for each in samples) or 0.0
        yield _share(load, spec.requests_per_s, f"{load:.3g} requests/s, {spec.requests_per_s:g} for each replica")
    if spec.utilization:
        busy = mean(each.busy for each in samples)
        yield _by_utilization(busy, spec, ready, desired)
    if spec.queue_delay_s:
        yield _by_queue_delay(spec, samples, desired, too_few)


def is_too_slow(spec: Spec, samples: Sequence[Sample]) -> bool:
    """Whether requests wait for longer than they may."""
    delay_s = mean(each.queue_delay_s for each in samples)
    return bool(spec.queue_delay_s) and delay_s is not None and delay_s > (1 + TOLERANCE) * spec.queue_delay_s


def _by_utilization(busy: float | None, spec: Spec, ready: int, desired: int) -> Proposal:
    if busy is None:
        return _unknown(ready, desired, "utilisation")
    return _share(busy, spec.utilization, f"{busy:.2f} replicas' worth of computing, {spec.utilization:g} for each")


def _by_queue_delay(spec: Spec, samples: Sequence[Sample], desired: int, too_few: TooFew | None) -> Proposal:
    """Up in proportion to the delay; down only to what the computing time needs, and never to what was too few."""
    ready = samples[-1].ready
    delay_s = mean(each.queue_delay_s for each in samples)
    if delay_s is None:
        return _unknown(ready, desired, "queue delay")
    words = f"requests wait {1000 * delay_s:.3g} ms, {1000 * spec.queue_delay_s:g} ms is the target"
    if is_too_slow(spec, samples):
        count = math.ceil(max(1, ready) * min(MOST_GROWTH, delay_s / spec.queue_delay_s))
        return Proposal(count=count, why=words)
    busy = mean(each.busy for each in samples)
    enough = desired if busy is None else min(desired, _ceil(busy / COMFORTABLE))
    if too_few is not None and too_few.holds(mean(each.requests_per_s for each in samples) or 0.0):
        enough = max(enough, too_few.count + 1)
    return Proposal(count=enough, why=words)


def _unknown(ready: int, desired: int, what: str) -> Proposal:
    """What is not known takes nothing away; where nothing runs yet it asks for nothing."""
    return Proposal(count=desired if ready else 0, why=f"the {what} is not known")


def _share(load: float, each: float, why: str) -> Proposal:
    return Proposal(count=_ceil(load / each), why=why)


def _ceil(share: float) -> int:
    """Rounded up; a rounding error of the mean is no replica."""
    return math.ceil(share - 1e-9)
