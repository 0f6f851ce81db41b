"""Thins long records of measurements so that their curves look the same: ends and peaks stay; pure."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")
_FEW: Final = 32
_LEADING: Final = ("loss", "held_out_loss", "validation_loss")


def thinned(points: Sequence[T], most: int, *, series: Callable[[T], Hashable], value: Callable[[T], float]) -> list[T]:
    """About `most` of the points, in their order; each series keeps its first and its last.

    The rest of a series is cut into even buckets, of which the lowest and the highest value stay (min-max decimation).
    Where there are so many series that their ends alone would be too many, they count as one.
    """
    if len(points) <= most:
        return list(points)
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, point in enumerate(points):
        members[series(point)].append(index)
    if 2 * len(members) > max(most, _FEW):
        members = defaultdict(list, {None: list(range(len(points)))})
    kept: set[int] = set()
    for indices in members.values():
        share = max(2, most * len(indices) // len(points))
        chosen = _ends_and_peaks([value(points[index]) for index in indices], share)
        kept.update(indices[at] for at in chosen)
    return [points[index] for index in sorted(kept)]


def leading(values: dict[str, float]) -> float:
    """The value by which a point is a peak or not: the loss, else the first by name; 0 when there is none."""
    name = next((name for name in _LEADING if name in values), min(values, default=""))
    return values.get(name, 0.0)


def _ends_and_peaks(values: Sequence[float], most: int) -> set[int]:
    """Which indices stay, `most` of them at the most, which is 2 or more."""
    count = len(values)
    if count <= most:
        return set(range(count))
    # A value that is no number is the highest peak of all: it is what somebody looks for.
    heights = [math.inf if math.isnan(value) else value for value in values]
    kept = {0, count - 1}
    buckets = (most - 2) // 2
    for bucket in range(buckets):
        begin = 1 + bucket * (count - 2) // buckets
        end = 1 + (bucket + 1) * (count - 2) // buckets
        inside = range(begin, end)
        kept.add(min(inside, key=heights.__getitem__))
        kept.add(max(inside, key=heights.__getitem__))
    return kept
