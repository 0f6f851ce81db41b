"""Dividing a sequence into contiguous pieces of even weight; pure."""

from collections.abc import Sequence
from itertools import accumulate


def partition(weights: Sequence[int], pieces: int) -> list[int]:
    """Where each piece starts so that the heaviest is as light as possible, none being empty.

    The linear partition problem by dynamic programming, O(pieces x items^2) (Skiena, The Algorithm Design Manual,
    10.7); of equally good divisions the one that starts its pieces earliest.
    """
    if not 1 <= pieces <= len(weights):
        raise ValueError(f"{len(weights)} items cannot make {pieces} pieces")
    sums = [0, *accumulate(weights)]
    best = [[0] * (len(weights) + 1) for _ in range(pieces + 1)]
    start = [[0] * (len(weights) + 1) for _ in range(pieces + 1)]
    for end in range(1, len(weights) + 1):
        best[1][end] = sums[end]
    for count in range(2, pieces + 1):
        for end in range(count, len(weights) + 1):
            options = [(max(best[count - 1][cut], sums[end] - sums[cut]), cut) for cut in range(count - 1, end)]
            best[count][end], start[count][end] = min(options)
    starts, end = [], len(weights)
    for count in range(pieces, 0, -1):
        end = start[count][end]
        starts.append(end)
    return starts[::-1]
