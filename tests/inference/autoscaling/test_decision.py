"""The number of replicas by tables and by properties: it follows the load, is bounded, and does not flap."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.autoscaling.decision import Memory, decide
from services.inference.autoscaling.proposals import Proposal
from services.inference.autoscaling.sample import Sample
from services.inference.autoscaling.spec import Spec
from tests.inference.autoscaling.played import changes, play

SPEC = Spec(min_replicas=0, max_replicas=10, in_flight=4.0, look_back_s=30.0, panic_window_s=3.0)
LOADS = st.lists(st.floats(0, 100), min_size=1, max_size=40)
WAITS = st.sampled_from([0.0, 10.0, 60.0, 300.0])
TARGETS = st.sampled_from(
    [{"in_flight": 4.0}, {"requests_per_s": 40.0}, {"in_flight": 4.0, "utilization": 0.6}, {"utilization": 0.8}]
)


def test_replicas_follow_steps_up_and_down_to_none_and_back() -> None:
    steps = [(0, 3), (100, 38), (300, 3), (1000, 0), (2000, 40)]
    moments = play(SPEC, lambda at: next(load for begin, load in reversed(steps) if at >= begin), until_s=2100)
    assert changes(moments) == [1, 6, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 5, 10], "down as the mean falls"
    grown = next(each.at for each in moments if each.desired == 10)
    assert grown <= 110, "a burst is not averaged away"
    shrunk = next(each.at for each in moments if each.at > 300 and each.desired < 10)
    assert 600 <= shrunk <= 602
    assert next(each.at for each in moments if each.at > 300 and each.desired == 1) <= 632
    asleep = next(each.at for each in moments if each.desired == 0)
    assert asleep == 998.0 + 600.0
    assert moments[-1].ready == 10


def test_the_first_call_wakes_at_once_whatever_the_delays() -> None:
    spec = replace(SPEC, up_stabilization_s=600.0)
    memory = Memory.begin(0.0)
    assert decide(spec, 0, memory, Sample(at=1.0)).desired == 0
    assert decide(spec, 0, memory, Sample(at=1.0), is_woken=True).desired == 1
    woken = decide(spec, 0, memory, Sample(at=1.0, held=9, in_flight=9.0))
    assert (woken.desired, woken.why) == (3, "9 held calls wake it")


def test_the_last_replica_goes_after_a_delay_of_its_own() -> None:
    spec = replace(SPEC, down_stabilization_s=10.0, scale_to_zero_delay_s=100.0)
    moments = play(spec, lambda at: 8.0 if at < 50 else 0.0, until_s=300, begins=2)
    one = next(each.at for each in moments if each.desired == 1)
    none = next(each for each in moments if each.desired == 0)
    assert one < 100
    assert (none.at, none.why) == (148.0, "no call for 100 s")


def test_a_least_number_is_kept() -> None:
    moments = play(replace(SPEC, min_replicas=2), lambda _: 0.0, until_s=3000, begins=2)
    assert changes(moments) == [2]


@pytest.mark.parametrize("gap", [100.0, 1500.0])
def test_without_data_nothing_is_taken_away_and_not_at_once_when_they_are_back(gap: float) -> None:
    moments = play(
        SPEC, lambda at: 38.0 if at < 100 else 3.0, until_s=100 + gap + 500,
        is_complete=lambda at: not 100 <= at < 100 + gap,
    )  # fmt: skip
    assert all(each.desired == 10 for each in moments if 60 <= each.at < 100 + gap + 299)
    assert any("does not tell" in each.why for each in moments)
    assert moments[-1].desired == 1


def test_with_data_the_same_load_takes_them_away() -> None:
    """The negative control of the former."""
    moments = play(SPEC, lambda at: 38.0 if at < 100 else 3.0, until_s=600)
    assert moments[-1].desired == 1


def test_a_new_leader_takes_nothing_away_before_it_has_watched() -> None:
    moments = play(SPEC, lambda _: 1.0, until_s=290, begins=8)
    assert changes(moments) == [8]


def test_replicas_that_never_become_ready_are_not_asked_for_again_and_again() -> None:
    moments = play(SPEC, lambda at: 4.0 + at / 10, until_s=600, start_s=1e9)
    assert max(each.desired for each in moments) == 5
    assert "no more are asked for" in moments[-1].why
    assert play(SPEC, lambda at: 4.0 + at / 10, until_s=600)[-1].desired == 10, "the negative control"


def test_flapping_load_keeps_the_larger_number() -> None:
    moments = play(SPEC, lambda at: 38.0 if int(at / 60) % 2 else 2.0, until_s=3600)
    assert changes(moments) == [1, 5, 10]


def test_flapping_load_without_stabilisation_flaps() -> None:
    """The negative control of the former."""
    spec = replace(SPEC, down_stabilization_s=0.0)
    moments = play(spec, lambda at: 38.0 if int(at / 60) % 2 else 2.0, until_s=3600)
    assert len(changes(moments)) > 20


def test_up_stabilisation_waits_and_a_burst_does_not() -> None:
    spec = replace(SPEC, up_stabilization_s=60.0)
    slow = play(spec, lambda at: 7.0 if at < 100 else 9.0, until_s=400, begins=2)
    assert 158 <= next(each.at for each in slow if each.desired == 3) <= 200
    burst = play(spec, lambda at: 3.0 if at < 100 else 30.0, until_s=400)
    assert next(each.at for each in burst if each.desired > 4) <= 110


def test_a_forecast_is_a_floor_and_no_more() -> None:
    floor = Proposal(count=3, why="usually 12 calls in flight by now")
    moments = play(
        SPEC, lambda _: 0.0, until_s=1000, begins=1, floor=lambda at: floor if at > 500 else Proposal(count=0, why="")
    )
    assert changes(moments) == [1, 3]
    assert moments[-1].why == floor.why
    assert play(replace(SPEC, max_replicas=2), lambda _: 0.0, until_s=100, floor=lambda _: floor)[-1].desired == 2


@given(load=st.floats(0.1, 60), begins=st.integers(1, 10), targets=TARGETS, down_s=WAITS)
@settings(max_examples=30, deadline=None)
def test_constant_load_settles(load: float, begins: int, targets: dict[str, float], down_s: float) -> None:
    spec = Spec(min_replicas=1, max_replicas=10, down_stabilization_s=down_s, **targets)  # type: ignore[arg-type]
    found = changes(play(spec, lambda _: load, until_s=1200, begins=begins, every_s=5.0))
    ordered = sorted(found)
    assert found in (ordered, ordered[::-1]), "one way only"


@given(load=st.floats(0.1, 9.0), begins=st.integers(1, 10), steepness=st.floats(0.01, 3.0))
@settings(max_examples=15, deadline=None)
def test_constant_load_settles_by_queue_delay_too(load: float, begins: int, steepness: float) -> None:
    """A queue whose delay grows without bound towards full use: what was too few is not tried again."""

    def delay_s(now: float, ready: int) -> float:
        use = min(0.999, now / ready)
        return steepness * 0.01 * use / (1 - use)

    spec = Spec(min_replicas=1, max_replicas=10, queue_delay_s=0.02, down_stabilization_s=60.0)
    moments = play(spec, lambda _: load, until_s=3000, begins=begins, every_s=5.0, delay_s=delay_s)
    late = changes([each for each in moments if each.at > 2000])
    assert len(late) == 1, changes(moments)
    enough = next((count for count in range(1, 11) if delay_s(load, count) <= 0.02 * 1.1), 10)
    assert late[0] >= enough


@given(loads=LOADS, least=st.integers(0, 3), most=st.integers(3, 12), targets=TARGETS, down_s=WAITS)
@settings(max_examples=30, deadline=None)
def test_it_is_bounded(loads: list[float], least: int, most: int, targets: dict[str, float], down_s: float) -> None:
    spec = Spec(min_replicas=least, max_replicas=most, down_stabilization_s=down_s, **targets)  # type: ignore[arg-type]
    moments = play(
        spec, lambda at: loads[min(len(loads) - 1, int(at / 20))], until_s=20 * len(loads), begins=least or 1
    )
    assert all(least <= each.desired <= most for each in moments)


@given(
    loads=LOADS, last=st.floats(0, 100), more=st.floats(0, 100), ready=st.integers(0, 10), desired=st.integers(0, 10),
    targets=TARGETS, down_s=WAITS,
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_more_load_never_gets_fewer(
    loads: list[float], last: float, more: float, ready: int, desired: int, targets: dict[str, float], down_s: float
) -> None:
    spec = Spec(min_replicas=0, max_replicas=30, down_stabilization_s=down_s, **targets)  # type: ignore[arg-type]

    def decided(final: float) -> int:
        memory = Memory.begin(0.0)
        for at, load in enumerate(loads):
            memory = decide(spec, desired, memory, _sample(2.0 * at, load, ready)).memory
        return decide(spec, desired, memory, _sample(2.0 * len(loads), final, ready)).desired

    assert decided(last) <= decided(last + more)


def _sample(at: float, load: float, ready: int) -> Sample:
    return Sample(at=at, in_flight=load, requests_per_s=10 * load, ready=ready, busy=min(load, ready))
