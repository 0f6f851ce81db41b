"""A curve in one line of text; pure."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_NO_NUMBER: Final = "×"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The values as blocks, at most `width` of them; several that share one show their mean, the last always shows.

    A value that is no finite number shows as ×.
    """
    if width < 1 or not values:
        return ""
    count = min(width, len(values))
    bounds = [index * len(values) // count for index in range(count + 1)]
    shown = [_mean(values[begin:end]) for begin, end in pairwise(bounds)]
    shown[-1] = values[-1]
    numbers = [value for value in shown if math.isfinite(value)]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    return "".join(_block(value, low, high) for value in shown)


def _mean(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    return math.fsum(value / len(values) for value in values)  # divided first: the sum of two floats may be none


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return _NO_NUMBER
    if high - low <= 0 or not math.isfinite(high - low):
        return _BLOCKS[0]
    return _BLOCKS[min(len(_BLOCKS) - 1, int((value - low) / (high - low) * len(_BLOCKS)))]
