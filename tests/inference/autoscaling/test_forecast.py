"""A load that comes every day is met by replicas that are there already; one that does not, costs little."""

import math
import random

import pytest

from services.inference.autoscaling.forecast import Season
from services.inference.autoscaling.proposals import Proposal
from services.inference.autoscaling.spec import Spec
from tests.inference.autoscaling.played import Moment, play

MINUTE, DAY = 60.0, 1440
SPEC = Spec(min_replicas=1, max_replicas=12, in_flight=4.0, forecast=True)
START_S = 180.0
LEAD = 5


def office_hours(minute: float) -> float:
    """Calls in flight: from nine to five twenty of them, which come within a minute; one at night."""
    return 20.0 if 540 <= minute % DAY < 1020 else 1.0


def slow_wave(minute: float) -> float:
    return 10.0 - 9.0 * math.cos(2 * math.pi * minute / DAY)


def learnt(load: object, days: int, noise: float, seed: int) -> Season:
    rng = random.Random(seed)
    season = Season.empty(DAY)
    for minute in range(days * DAY):
        season = season.see(minute, max(0.0, load(minute) * (1 + noise * rng.uniform(-1, 1))))  # type: ignore[operator]
    return season


def day(load: object, season: Season | None, days: int) -> list[Moment]:
    """One more day, from midnight."""

    def floor(at: float) -> Proposal:
        if season is None:
            return Proposal(count=0, why="")
        now = days * DAY + int(at / MINUTE)
        return Proposal(count=math.ceil(season.expect(now, now + LEAD) / SPEC.in_flight), why="as every day")

    def now(at: float) -> float:
        return load(days * DAY + at / MINUTE)  # type: ignore[operator,no-any-return]

    return play(SPEC, now, until_s=DAY * MINUTE, every_s=20.0, start_s=START_S, floor=floor)


def short_of(moments: list[Moment]) -> int:
    """At how many moments there were fewer ready than the load asked for."""
    return sum(each.ready < min(SPEC.max_replicas, math.ceil(each.load / SPEC.in_flight)) for each in moments)


@pytest.mark.parametrize("load", [office_hours, slow_wave])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_daily_load_finds_its_replicas_ready(load: object, noise: float) -> None:
    with_forecast = day(load, learnt(load, 5, noise, seed=11), 5)
    without = day(load, None, 5)
    assert short_of(without) >= 9, "the negative control: replicas come after the load"
    assert short_of(with_forecast) <= short_of(without) / 5
    spent = sum(each.ready for each in with_forecast) / sum(each.ready for each in without)
    assert spent < 1.2


def test_before_a_season_was_seen_nothing_is_expected() -> None:
    season = Season.empty(4)
    for bucket in range(3):
        season = season.see(bucket, 5.0)
        assert season.expect(bucket, bucket + 1) == 0.0
    assert season.see(3, 5.0).expect(4, 5) == 5.0


def test_a_load_that_comes_no_more_is_forgotten() -> None:
    season = learnt(office_hours, 3, 0.0, seed=1)
    for minute in range(3 * DAY, 13 * DAY):
        season = season.see(minute, 1.0)
    assert season.expect(13 * DAY + 600, 13 * DAY + 610) < 5.0


def test_what_comes_late_or_twice_changes_nothing() -> None:
    season = Season.empty(4).see(7, 1.0)
    assert season.see(7, 9.0) == season.see(3, 9.0) == season


def test_the_time_ahead_counts_with_its_most() -> None:
    season = Season.empty(4)
    for bucket in range(8):
        season = season.see(bucket, [0.0, 0.0, 8.0, 0.0][bucket % 4])
    assert season.expect(8, 9) < 1.0 < 7.0 < season.expect(8, 10)
