"""Load balancing policies: which target gets the next request. Pure: state in, choice out; chance is seeded.

What spreads work in Lepton, and by what: requests to the replicas of a deployment are spread by the gateway (least
requests, by power of two choices); slices over nodes by the planner's placement, which packs or spreads on purpose.
These policies are for whoever has to spread over targets that are known, and for seeing beforehand what one would do.
"""

import random
from collections.abc import Sequence
from typing import Protocol


class Policy(Protocol):
    """Chooses the target of one request after the other."""

    def choose(self, open_requests: Sequence[int]) -> int:
        """The index of the target, given how many requests each has open now."""
        ...


class RoundRobin:
    """Each in turn: of N targets each gets C_i = 1/N of the requests."""

    def __init__(self, count: int) -> None:
        self._count, self._next = count, 0

    def choose(self, open_requests: Sequence[int]) -> int:
        """The one after the last."""
        chosen = self._next
        self._next = (chosen + 1) % self._count
        return chosen


class LeastConnections:
    """The one with the fewest open requests; among equals that which was chosen the longest ago, then the first."""

    def __init__(self, count: int) -> None:
        self._chosen_at = [0] * count
        self._now = 0

    def choose(self, open_requests: Sequence[int]) -> int:
        """One than which none is less busy."""
        chosen = min(range(len(self._chosen_at)), key=lambda each: (open_requests[each], self._chosen_at[each], each))
        self._now += 1
        self._chosen_at[chosen] = self._now
        return chosen


class Weighted:
    """Smooth weighted round robin: in proportion to the weights, evenly mixed.

    Every target earns its weight each time; the richest is chosen and pays what all earned. With whole weights that
    sum to W, each target is chosen exactly `weight` times in every W requests.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights, self._total = tuple(weights), sum(weights)
        self._earned = [0.0] * len(weights)

    def choose(self, open_requests: Sequence[int]) -> int:
        """The one that is owed the most; the first among equals."""
        self._earned = [earned + weight for earned, weight in zip(self._earned, self._weights, strict=True)]
        chosen = max(range(len(self._earned)), key=lambda each: (self._earned[each], -each))
        self._earned[chosen] -= self._total
        return chosen


class PowerOfTwoChoices:
    """Of two drawn at random, the less busy: nearly as even as the least of all, at the cost of looking at two."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._random = random.Random(seed)  # noqa: S311 - nobody gains by guessing it

    def choose(self, open_requests: Sequence[int]) -> int:
        """The less busy of two different ones; the first drawn among equals."""
        if self._count == 1:
            return 0
        one, other = self._random.sample(range(self._count), 2)
        return other if open_requests[other] < open_requests[one] else one
