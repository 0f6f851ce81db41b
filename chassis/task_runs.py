"""Runs of tasks: the packed form in which positions and serials of an array's tasks are stored and sent."""

from collections.abc import Iterable, Iterator, Sequence


def packed(tasks: Iterable[tuple[int, int]]) -> list[int]:
    """Positions with their serials, in order of position, as runs of position, count and serial."""
    runs: list[int] = []
    first = count = last = 0
    for position, serial in tasks:
        if count and serial == last and position == first + count:
            count += 1
            continue
        if count:
            runs += (first, count, last)
        first, count, last = position, 1, serial
    if count:
        runs += (first, count, last)
    return runs


def unpacked(runs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Every position with its serial."""
    for at in range(0, len(runs) - 2, 3):
        first, count, serial = runs[at : at + 3]
        for position in range(first, first + count):
            yield position, serial


def positions(runs: Sequence[int]) -> int:
    """How many positions there are in runs with a serial."""
    return sum(runs[1::3])


def with_positions(runs: Sequence[int], added: Iterable[int]) -> list[int]:
    """Runs of position and count with some more positions, in order."""
    found = {first + each for first, count in zip(runs[::2], runs[1::2], strict=True) for each in range(count)}
    flat = packed((each, 0) for each in sorted(found | set(added)))
    return [each for at, each in enumerate(flat) if at % 3 != 2]
