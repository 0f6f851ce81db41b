"""What a rank tells of its steps: the first at once, then every few seconds, and that it rests when there are none."""

from typing import Any

import pytest

from lepton.train.pace import EVERY_S, Pace, every_s
from lepton.train.sampler import StepSampler


class Told:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def pace(self, **line: Any) -> None:
        self.lines.append(line)


class Watch:
    """A clock, and a processor that is used half of the time."""

    now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def used(self) -> float:
        return self.now_s / 2


def made(hang_timeout_s: float = 0.0, *, has_device: bool = False) -> tuple[Pace, Told, Watch]:
    told, watch = Told(), Watch()
    pace = Pace(told, hang_timeout_s=hang_timeout_s, clock=watch.clock, used=watch.used, has_device=lambda: has_device)
    return pace, told, watch


def step(pace: Pace, watch: Watch, number: int, seconds: float) -> None:
    watch.now_s += seconds
    pace.stepped(number)


def test_the_first_step_is_told_at_once_and_the_others_every_few_seconds() -> None:
    pace, told, watch = made()
    watch.now_s = 100.0  # starting took long, and is no part of a step
    pace.stepped(1)
    for number in range(2, 12):
        step(pace, watch, number, 0.5)
    assert [line["step"] for line in told.lines] == [1, 5, 9]
    assert told.lines[0] == {"step": 1, "step_s": 0.0, "busy_s": 0.0, "idle": False}
    assert told.lines[1] == {"step": 5, "step_s": 0.5, "busy_s": 0.25, "idle": False}


def test_a_step_that_is_told_twice_counts_once() -> None:
    pace, told, watch = made()
    for number in (1, 2, 2, 3, 3):
        step(pace, watch, number, 1.0)
    assert [(line["step"], line["step_s"]) for line in told.lines] == [(1, 0.0), (3, 1.5)]


def test_with_a_device_it_is_not_known_what_the_rank_itself_computed() -> None:
    pace, told, watch = made(has_device=True)
    for number in (1, 2, 3):
        step(pace, watch, number, 2.0)
    assert [line["busy_s"] for line in told.lines] == [0.0, 0.0, 0.0]
    assert told.lines[-1]["step_s"] == 2.0


@pytest.mark.parametrize(("timeout_s", "expected"), [(0.0, EVERY_S), (600.0, EVERY_S), (2.0, 0.5)])
def test_a_short_timeout_makes_it_tell_more_often(timeout_s: float, expected: float) -> None:
    assert every_s(timeout_s) == expected


def test_a_program_that_goes_over_its_batches_tells_every_step_that_it_is_done_with_and_then_rests() -> None:
    pace, told, watch = made(hang_timeout_s=0.4)
    sampler = StepSampler(count=8, batch_size=2, seed=0, rank=0, world_size=1)
    for _ in pace.over(sampler.batches(epochs=1, position=2)):
        watch.now_s += 1.0
    assert [(line["step"], line["idle"]) for line in told.lines] == [(2, False), (3, False), (4, False), (4, True)]
