"""Runs of tasks, as the scheduler and the agents send them: position, count and serial, in turns."""

from collections.abc import Iterable, Iterator, Sequence


def unpacked(runs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Every position with its serial."""
    for at in range(0, len(runs) - 2, 3):
        first, count, serial = runs[at : at + 3]
        for position in range(first, first + count):
            yield position, serial


def packed(tasks: Iterable[tuple[int, int]]) -> list[int]:
    """Positions with their serials as runs; the fewest if they come in order."""
    runs: list[int] = []
    for position, serial in tasks:
        if runs and runs[-1] == serial and runs[-3] + runs[-2] == position:
            runs[-2] += 1
        else:
            runs += (position, 1, serial)
    return runs
