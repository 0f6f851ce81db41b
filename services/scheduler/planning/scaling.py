"""The elastic scaling program: how much capacity there should be after one step.

    minimise    T
    subject to  T >= L                               the load is carried
                T = B,  or  m <= |T - B| <= M        no step is larger than M, none smaller than m is worth it
                T = B,  or  T = k U, k integer       capacity comes in units
                lo U <= T <= hi U                    the fewest and the most units

How the model is read. It is written down with bounds that cross (c_i >= max(0, L - C_0 + (i-1) C_max) and
c_i <= C_min + (i-1) C_max). Meant is: carry the load with the least capacity, never changing it by more than the
largest step nor by less than the smallest one. Both limits hold for growing and for shrinking: a growth that is smaller
than m is made m, a reduction that is smaller is left undone, so a load that wavers by less does not move the capacity.

When not everything can be held, the step limits and the units are, and the answer is the nearest: first the least that
the number of units is out of bounds, then the least load that is left over, then the least capacity.

This mixed-integer program has one variable and three branches (stay, grow, shrink). On each, the allowed amounts are a
range, or the multiples of a unit in it, and every objective bends only at L, lo U and hi U, so that the optimum is an
end of the range or next to one of these: looking at them finds it, exactly. A solver's tolerances would lose a step of
1 among amounts of 10^9; the tests compare with scipy's MILP, and with counting.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor, inf
from typing import Final

_TRACE: Final = 1e-9  # relative: what floating point makes of 0.1 + 0.2
_EXACT: Final = 2.0**53  # the whole numbers that a float holds exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Elastic:
    """The question. Amounts are of capacity, in whatever it is measured."""

    load: float
    base: float
    max_step: float = inf
    min_step: float = 0.0
    unit: float = 0.0  # 0 = any amount
    min_units: int = 0
    max_units: int | None = None

    @property
    def least(self) -> float:
        """The least capacity that the number of units allows."""
        return self.min_units * self.unit

    @property
    def most(self) -> float:
        """The most."""
        return inf if self.max_units is None else self.max_units * self.unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The answer."""

    target: float
    change: float
    units: int
    load_per_unit: float
    violated: tuple[str, ...] = ()
    is_feasible: bool = True  # the load is carried


def scale(asked: Elastic) -> Step:
    """The step to take."""
    target = _best(asked)
    units = ceil(target / asked.unit - _TRACE * max(1.0, target / asked.unit)) if asked.unit else 0
    return Step(
        target=target,
        change=target - asked.base,
        units=units,
        load_per_unit=min(asked.load, target) / units if units else 0.0,
        violated=tuple(_violated(asked, target)),
        is_feasible=_carries(asked, target),
    )


def _best(asked: Elastic) -> float:
    def merit(target: float) -> tuple[float, float, float]:
        outside = _positive(asked.least - target, target) + _positive(target - asked.most, target)
        return outside, _positive(asked.load - target, target), target

    return min((asked.base, *_grown(asked), *_shrunk(asked)), key=merit)


def _grown(asked: Elastic) -> Iterator[float]:
    """The capacities worth looking at above the base."""
    return _worthwhile(asked, asked.base + asked.min_step, asked.base + asked.max_step)


def _shrunk(asked: Elastic) -> Iterator[float]:
    """Those below it."""
    return _worthwhile(asked, max(0.0, asked.base - asked.max_step), asked.base - asked.min_step)


def _worthwhile(asked: Elastic, low: float, high: float) -> Iterator[float]:
    """The ends of a range, and what lies next to the points at which an objective turns, in units."""
    slack = _TRACE * max(asked.base, asked.load, asked.unit)
    for near in (low, high, asked.load, asked.least, asked.most):
        if near == inf:
            continue
        for each in _units_around(near, asked.unit):
            if low - slack <= each <= high + slack and each >= 0.0:
                yield each


def _units_around(near: float, unit: float) -> tuple[float, ...]:
    if not unit or near / unit > _EXACT:
        return (near,)  # units too small to be told apart
    return tuple(unit * count for count in (floor(near / unit), round(near / unit), ceil(near / unit)))


def _violated(asked: Elastic, target: float) -> Iterator[str]:
    """What holds the step back, each in a sentence."""
    if not _carries(asked, target):
        short = _figure(asked.load - target)
        yield f"load: {_figure(asked.load)} is to be carried, {_figure(target)} is reached: {short} short"
        yield from _limits(asked)
    reached = f"one step from {_figure(asked.base)} reaches only {_figure(target)}"
    if _positive(asked.least - target, target):
        yield f"min_units: {asked.min_units} units are {_figure(asked.least)}, {reached}"
    if _positive(target - asked.most, target):
        yield f"max_units: {asked.max_units} units are {_figure(asked.most)}, {reached}"


def _limits(asked: Elastic) -> Iterator[str]:
    """The limits without one of which the load would be carried; all that stand in the way, if it takes several."""
    freed = {
        "max_step": replace(asked, max_step=inf),
        "min_step": replace(asked, min_step=0.0),
        "max_units": replace(asked, max_units=None),
    }
    alone = {name: each for name, each in freed.items() if _carries(asked, _best(each))}
    wholly = replace(asked, max_step=inf, max_units=None)
    held = alone or {"max_step": wholly, "max_units": wholly}
    if "max_step" in held:
        far = _best(held["max_step"])
        takes = f"carrying the load takes {_figure(far - asked.base)}, to {_capacity(far, asked)}"
        yield f"max_step: a step is at most {_figure(asked.max_step)}, {takes}"
    if "min_step" in held:
        yield f"min_step: a step is at least {_figure(asked.min_step)}, which goes beyond the other limits"
    if "max_units" in held:
        takes = f"carrying the load takes {_capacity(_best(held['max_units']), asked)}"
        yield f"max_units: {asked.max_units} units are {_figure(asked.most)}, {takes}"


def _capacity(target: float, asked: Elastic) -> str:
    units = ceil(target / asked.unit - _TRACE) if asked.unit else 0
    return _figure(target) + (f" ({units} units of {_figure(asked.unit)})" if asked.unit else "")


def _carries(asked: Elastic, target: float) -> bool:
    return not _positive(asked.load - target, target)


def _positive(value: float, beside: float) -> float:
    """The value when it is above zero and more than what floating point makes of equal amounts."""
    return value if value > _TRACE * max(1.0, abs(beside)) else 0.0


def _figure(value: float) -> str:
    return f"{value:.10g}"
