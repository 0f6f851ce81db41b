"""Thinned records: few points, the same ends, the same peaks, every series."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.thinning import leading, thinned

Point = tuple[str, float]


def thin(points: list[Point], most: int) -> list[Point]:
    return thinned(points, most, series=lambda point: point[0], value=lambda point: point[1])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(allow_nan=False))), st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_they_are_a_part_in_order_with_the_ends_of_every_series(points: list[Point], most: int) -> None:
    kept = thin(points, most)
    remaining = iter(points)
    assert all(any(point is other for other in remaining) for point in kept)
    assert len(kept) <= max(most, 2 * len({name for name, _ in points})) or len(points) <= most
    for name in "ab":
        series, left = ([each for each in some if each[0] == name] for some in (points, kept))
        if series:
            assert (left[0], left[-1]) == (series[0], series[-1])


def test_a_single_peak_and_what_is_no_number_stay() -> None:
    points = [("a", 1.0)] * 10_000
    points[4321] = ("a", 99.0)
    points[7000] = ("a", math.nan)
    kept = thin(points, 50)
    assert len(kept) <= 50
    assert ("a", 99.0) in kept
    assert any(math.isnan(value) for _, value in kept)


def test_a_rare_series_is_not_thinned_away_by_a_frequent_one() -> None:
    points = [("b" if at % 100 == 99 else "a", float(at)) for at in range(10_000)]
    kept = thin(points, 200)
    assert 2 <= sum(name == "b" for name, _ in kept) <= 4
    assert sum(name == "a" for name, _ in kept) > 150


def test_very_many_series_count_as_one() -> None:
    points = [(str(at), float(at)) for at in range(1000)]
    assert len(thin(points, 100)) <= 100


def test_the_leading_value_is_the_loss() -> None:
    assert leading({"accuracy": 0.5, "loss": 2.0}) == 2.0
    assert leading({"zeta": 1.0, "accuracy": 0.5}) == 0.5
    assert leading({}) == 0.0
