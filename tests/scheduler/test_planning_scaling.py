"""The elastic scaling program: its worked example, what it says when it cannot, and that no amount is better."""

from collections.abc import Iterator
from math import inf
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from services.scheduler.planning.scaling import Elastic, scale

EXAMPLE = Elastic(load=10000, base=8000, max_step=5000, min_step=1000, unit=2500)
AMOUNTS = st.integers(0, 60)
FAR = 200.0  # beyond all amounts
SOLVER_FAILED = 4
SAYS_INFEASIBLE = 2  # within its tolerances, of a problem that cannot be
Vector: TypeAlias = NDArray[np.float64]


@st.composite
def questions(draw: st.DrawFn, *, has_unit: bool | None = None) -> Elastic:
    """Small whole amounts, so that everything can be counted."""
    is_in_units = draw(st.booleans()) if has_unit is None else has_unit
    smallest = draw(st.integers(0, 12))
    least = draw(st.integers(0, 8)) if is_in_units else 0
    return Elastic(
        load=draw(AMOUNTS),
        base=draw(AMOUNTS),
        max_step=draw(st.one_of(st.just(inf), st.integers(max(1, smallest), 40))),
        min_step=smallest,
        unit=draw(st.integers(1, 9)) if is_in_units else 0,
        min_units=least,
        max_units=draw(st.one_of(st.none(), st.integers(max(1, least), 12))) if is_in_units else None,
    )


def allowed(asked: Elastic) -> Iterator[int]:
    """Every amount that the step limits and the unit allow, by counting."""
    for target in range(200):
        change = abs(target - asked.base)
        if change == 0 or (asked.min_step <= change <= asked.max_step and target % (asked.unit or 1) == 0):
            yield target


def merit(asked: Elastic, target: float) -> tuple[float, float, float]:
    """What is to be small, in this order."""
    outside = max(0.0, asked.least - target) + max(0.0, target - asked.most)
    return outside, max(0.0, asked.load - target), target


def test_ten_thousand_of_load_on_eight_thousand_takes_four_machines_with_2500_each() -> None:
    step = scale(EXAMPLE)
    assert (step.is_feasible, step.target, step.change, step.units, step.load_per_unit) == (True, 10000, 2000, 4, 2500)
    assert step.violated == ()


@pytest.mark.parametrize(
    ("load", "target"),
    [
        (8500, 9000),  # growing by 500 is less than a step: it grows by a whole one
        (7500, 8000),  # shrinking by 500 is less than a step: it stays
        (6000, 6000),
        (1000, 3000),  # no further in one step
        (13000, 13000),
    ],
)
def test_the_smallest_and_the_largest_step(load: float, target: float) -> None:
    step = scale(Elastic(load=load, base=8000, max_step=5000, min_step=1000))
    assert (step.target, step.is_feasible, step.units) == (target, True, 0)


def test_a_load_that_wavers_by_less_than_the_smallest_step_moves_nothing() -> None:
    capacity, moves = 8000.0, 0
    for load in [7400, 8000, 7100, 7900, 7001] * 4:
        step = scale(Elastic(load=load, base=capacity, max_step=5000, min_step=1000))
        moves += step.change != 0
        capacity = step.target
    assert (capacity, moves) == (8000, 0)


def test_what_is_too_far_for_one_step_says_which_limit_holds_it_back() -> None:
    step = scale(Elastic(load=20000, base=8000, max_step=5000, min_step=1000, unit=2500))
    assert (step.is_feasible, step.target, step.units, step.load_per_unit) == (False, 12500, 5, 2500)
    assert step.violated == (
        "load: 20000 is to be carried, 12500 is reached: 7500 short",
        "max_step: a step is at most 5000, carrying the load takes 12000, to 20000 (8 units of 2500)",
    )


def test_too_few_units_are_named() -> None:
    step = scale(Elastic(load=10000, base=5000, unit=2500, max_units=3))
    assert (step.is_feasible, step.target) == (False, 7500)
    assert step.violated[1] == "max_units: 3 units are 7500, carrying the load takes 10000 (4 units of 2500)"


def test_where_several_limits_stand_in_the_way_all_are_named() -> None:
    step = scale(Elastic(load=30000, base=5000, max_step=10000, unit=2500, max_units=3))
    assert [each.partition(":")[0] for each in step.violated] == ["load", "max_step", "max_units"]


def test_a_smallest_step_that_goes_too_far_is_named() -> None:
    step = scale(Elastic(load=8500, base=8000, min_step=1000, unit=100, max_units=86))
    assert (step.is_feasible, step.target) == (False, 8000)
    assert any(each.startswith("min_step") for each in step.violated)


def test_the_number_of_units_is_approached_when_one_step_does_not_reach_it() -> None:
    step = scale(Elastic(load=1000, base=8000, max_step=5000, unit=1000, min_units=20))
    assert (step.is_feasible, step.target) == (True, 13000)
    assert step.violated == ("min_units: 20 units are 20000, one step from 8000 reaches only 13000",)


def test_nothing_is_needed_for_nothing() -> None:
    step = scale(Elastic(load=0, base=10, unit=5))
    assert (step.target, step.change, step.units, step.load_per_unit) == (0, -10, 0, 0)


def test_a_step_of_one_counts_among_a_thousand_million() -> None:
    assert scale(Elastic(load=1e9 + 2, base=1e9, max_step=1, unit=1)).target == 1e9 + 1


@given(st.floats(0.01, 1e6), st.integers(1, 1000))
def test_floating_point_makes_no_unit_too_many(unit: float, count: int) -> None:
    assert scale(Elastic(load=unit * count, base=0, unit=unit)).units == count


@settings(max_examples=600)
@given(questions())
def test_no_amount_is_better(asked: Elastic) -> None:
    step = scale(asked)
    assert step.target in set(allowed(asked))
    assert merit(asked, step.target) == min(merit(asked, each) for each in allowed(asked))
    assert step.is_feasible == (step.target >= asked.load)
    assert step.is_feasible or len(step.violated) > 1, "it says which limit holds it back"
    assert step.change == step.target - asked.base


@settings(max_examples=60, deadline=None)
@given(questions(has_unit=True))
def test_it_is_the_optimum_of_the_mixed_integer_program(asked: Elastic) -> None:
    assert scale(asked).target == pytest.approx(optimum(asked), abs=1e-4)


def optimum(asked: Elastic) -> float:
    """The program as it is written, solved by HiGHS: T, k, grown, shrunk, is_grown, is_shrunk, outside, short."""
    far = FAR
    step = min(asked.max_step, far)
    zero, one = np.zeros(8), np.eye(8)
    target, count, grown, shrunk, is_grown, is_shrunk, outside, short = one
    moved = is_grown + is_shrunk
    limits = [
        (target - grown + shrunk, asked.base, asked.base),
        (grown - step * is_grown, -inf, 0),
        (grown - asked.min_step * is_grown, 0, inf),
        (shrunk - step * is_shrunk, -inf, 0),
        (shrunk - asked.min_step * is_shrunk, 0, inf),
        (moved, 0, 1),
        (target - asked.unit * count + far * moved, -inf, far),
        (target - asked.unit * count - far * moved, -far, inf),
        (target + outside, asked.least, inf),
        (target - outside, -inf, asked.most),
        (target + short, asked.load, inf),
    ]
    found = zero
    for objective in (outside, short, target):
        found = solved(objective, limits)
        limits.append((objective, -inf, float(objective @ found) + 1e-6))
    return float(found[0])


def solved(objective: Vector, limits: list[tuple[Vector, float, float]]) -> Vector:
    """The optimum; HiGHS gives up on a few of these, nearly always on other ones without its presolve."""
    rows, low, high = zip(*limits, strict=True)
    for presolve in (True, False):
        outcome = milp(
            objective,
            constraints=LinearConstraint(np.array(rows), low, high),
            bounds=Bounds(np.zeros(8), [FAR, FAR, FAR, FAR, 1, 1, FAR, FAR]),
            integrality=[0, 1, 0, 0, 1, 1, 0, 0],
            options={"presolve": presolve},
        )
        if outcome.x is not None:
            return np.asarray(outcome.x)
        assert outcome.status in (SOLVER_FAILED, SAYS_INFEASIBLE)
    return reject()
