"""What a load balancing policy does with a stream of requests: a model of targets that differ in speed."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from services.scheduler.planning.balancing import LeastConnections, Policy, PowerOfTwoChoices, RoundRobin, Weighted


class PolicyName(IntEnum):
    """The policies; the numbers are the proto's."""

    ROUND_ROBIN = 1
    LEAST_CONNECTIONS = 2
    WEIGHTED = 3
    POWER_OF_TWO_CHOICES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who serves; a request is open on it for 1 / weight."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Requests, of which so many are open at once that a new one is sent as soon as one has ended."""

    policy: PolicyName
    targets: tuple[Target, ...]
    requests: int
    concurrency: int
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one target got."""

    target: Target
    requests: int
    share: float
    ideal: float
    peak_open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What all got, and when the last request had ended."""

    shares: tuple[Share, ...]
    makespan: float


def policy_of(stream: Stream) -> Policy:
    """A policy at its beginning."""
    count = len(stream.targets)
    match stream.policy:
        case PolicyName.ROUND_ROBIN:
            return RoundRobin(count)
        case PolicyName.LEAST_CONNECTIONS:
            return LeastConnections(count)
        case PolicyName.WEIGHTED:
            return Weighted([each.weight for each in stream.targets])
        case PolicyName.POWER_OF_TWO_CHOICES:
            return PowerOfTwoChoices(count, stream.seed)


def spread(stream: Stream) -> Spread:
    """Send the requests."""
    policy, targets = policy_of(stream), stream.targets
    sent, is_open, peak = ([0] * len(targets) for _ in range(3))
    ends: list[tuple[float, int, int]] = []  # when, which request, on which target
    now = 0.0
    for number in range(stream.requests):
        if len(ends) >= stream.concurrency:
            now, _, ended = heapq.heappop(ends)
            is_open[ended] -= 1
        chosen = policy.choose(is_open)
        sent[chosen] += 1
        is_open[chosen] += 1
        peak[chosen] = max(peak[chosen], is_open[chosen])
        heapq.heappush(ends, (now + 1.0 / targets[chosen].weight, number, chosen))
    return Spread(shares=_shares(targets, sent, peak), makespan=max((end for end, _, _ in ends), default=now))


def _shares(targets: Sequence[Target], sent: Sequence[int], peak: Sequence[int]) -> tuple[Share, ...]:
    total, weights = sum(sent), sum(each.weight for each in targets)
    return tuple(
        Share(
            target=target,
            requests=count,
            share=count / total if total else 0.0,
            ideal=target.weight / weights,
            peak_open=most,
        )
        for target, count, most in zip(targets, sent, peak, strict=True)
    )
