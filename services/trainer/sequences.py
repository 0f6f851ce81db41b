"""Which of one source's numbered events are stored, whatever order they came in."""

import bisect
from collections.abc import Iterable, Iterator


class Sequences:
    """A set of numbers, kept as runs: events come in order, so there is one run nearly always."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, number: int) -> bool:
        at = bisect.bisect_right(self._starts, number) - 1
        return at >= 0 and number <= self._ends[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The runs: first and last number of each."""
        return iter(zip(self._starts, self._ends, strict=True))

    def add_runs(self, runs: Iterable[tuple[int, int]]) -> None:
        """Take in what an iteration has given; only for a set that is empty."""
        for first, last in runs:
            self._starts.append(first)
            self._ends.append(last)

    def add(self, number: int) -> None:
        """Take a number in."""
        if number in self:
            return
        at = bisect.bisect_right(self._starts, number)
        joins_left = at > 0 and self._ends[at - 1] == number - 1
        joins_right = at < len(self._starts) and self._starts[at] == number + 1
        if joins_left and joins_right:
            self._ends[at - 1] = self._ends.pop(at)
            self._starts.pop(at)
        elif joins_left:
            self._ends[at - 1] = number
        elif joins_right:
            self._starts[at] = number
        else:
            self._starts.insert(at, number)
            self._ends.insert(at, number)
