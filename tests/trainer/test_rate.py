"""Rates and remaining times: of even progress, with stalls, after a change of speed, when nothing is known."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.rate import Course, Sample


def course(*steps: tuple[float, float]) -> Course:
    made = Course()
    for at_s, done in steps:
        made.add(Sample(at_s, done))
    return made


def test_of_nothing_nothing_is_known() -> None:
    assert (course().rate(), course((5, 3)).rate(), course((5, 3)).remaining_s(10)) == (0.0, 0.0, 0.0)
    assert course((5, 3), (5, 4)).rate() == 0.0  # at once: no speed


@given(st.floats(0.01, 1000), st.floats(0.1, 100), st.integers(2, 200))
@settings(max_examples=100, deadline=None)
def test_even_progress_has_its_speed_whatever_the_spacing(speed: float, spacing_s: float, count: int) -> None:
    made = course(*((at * spacing_s, at * spacing_s * speed) for at in range(count)))
    assert made.rate() == pytest.approx(speed, rel=1e-6)
    end = (count - 1) * spacing_s * speed
    assert made.remaining_s(end + 60 * speed) == pytest.approx(60.0, rel=1e-3)
    assert made.remaining_s(end - 1) == 0.0


def test_one_stall_does_not_move_it_but_a_mean_would_be_moved() -> None:
    steps = [(float(at if at < 10 else at + 60), float(at)) for at in range(20)]  # a minute's pause in the middle
    made = course(*steps)
    mean = (steps[-1][1] - steps[0][1]) / (steps[-1][0] - steps[0][0])
    assert abs(mean - 1) > 0.7
    assert made.rate() == pytest.approx(1.0, rel=0.25)


def test_pauses_that_come_again_and_again_count() -> None:
    at_s, steps = 0.0, []
    for step in range(400):
        at_s += 5.0 if step % 10 == 9 else 0.1  # an evaluation of 5 s behind every tenth step
        steps.append((at_s, float(step)))
    true = 400 / at_s
    assert course(*steps).rate() == pytest.approx(true, rel=0.15)


def test_a_new_speed_is_believed_within_ten_minutes() -> None:
    fast = [(float(at), 10.0 * at) for at in range(1000)]
    slow = [(1000.0 + at, 10_000.0 + at) for at in range(700)]
    assert course(*fast, *slow).rate() == pytest.approx(1.0, rel=0.05)
    assert course(*fast, *slow[:60]).rate() > 5


def test_a_run_that_goes_on_from_a_checkpoint_begins_anew() -> None:
    made = course((0, 0), (10, 100), (20, 50))
    assert made.rate() == 0.0
    made.add(Sample(30, 60))
    assert made.rate() == 1.0


@given(st.lists(st.tuples(st.floats(0.001, 30), st.floats(0, 10)), max_size=400))
@settings(max_examples=60, deadline=None)
def test_few_samples_are_kept_and_the_newest_always(moves: list[tuple[float, float]]) -> None:
    times = list(itertools.accumulate(at for at, _ in moves))
    steps = list(itertools.accumulate(done for _, done in moves))
    made = course(*zip(times, steps, strict=True))
    assert len(made.samples) <= 49
    if moves:
        assert made.samples[-1] == Sample(times[-1], steps[-1])
    assert made.rate() >= 0
