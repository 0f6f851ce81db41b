"""The stages of each strategy, as tables."""

import pytest
from google.protobuf.duration_pb2 import Duration

from lepton.inference.v1.rollout_pb2 import BlueGreen, Canary, PromotionGate, RollingUpdate, Strategy
from services.inference.rollout.stages import Stage, drain_s, stages

GATE = PromotionGate()
STEPS = [Canary.Step(weight=0, manual=True), Canary.Step(weight=10, hold=Duration(seconds=5), gate=True)]


@pytest.mark.parametrize(
    ("replicas", "surge", "expected"),
    [
        (1, 0, [(100, 1, 0)]),
        (2, 0, [(50, 1, 1), (100, 2, 1)]),
        (4, 2, [(50, 2, 2), (100, 4, 2)]),
        (8, 0, [(25, 2, 6), (50, 4, 4), (75, 6, 2), (100, 8, 2)]),
        (3, 9, [(100, 3, 0)]),
    ],
)
def test_rolling_goes_by_its_surge(replicas: int, surge: int, expected: list[tuple[int, int, int]]) -> None:
    found = stages(Strategy(rolling=RollingUpdate(max_surge=surge)), replicas)
    assert [(each.weight, each.replicas, each.kept) for each in found] == expected


@pytest.mark.parametrize("replicas", range(1, 40))
@pytest.mark.parametrize("surge", [0, 1, 2, 5, 40])
def test_rolling_never_has_fewer_replicas_than_are_wanted_nor_more_than_the_surge_allows(
    replicas: int, surge: int
) -> None:
    path = stages(Strategy(rolling=RollingUpdate(max_surge=surge)), replicas)
    allowed = surge or max(1, -(-replicas // 4))
    old = replicas
    for stage in path:
        assert old + stage.replicas <= replicas + allowed, "while the new ones start"
        old = stage.kept or old
        assert old + stage.replicas >= replicas, "once the old ones have gone"
    assert (path[-1].weight, path[-1].replicas) == (100, replicas)


def test_a_canary_has_replicas_for_its_share_and_a_first_comparison_before_any_call() -> None:
    strategy = Strategy(canary=Canary(steps=STEPS), gate=GATE)
    assert stages(strategy, 20) == (
        Stage(weight=0, replicas=1, gate=True),
        Stage(weight=0, replicas=1, manual=True),
        Stage(weight=10, replicas=2, hold_s=5, gate=True),
        Stage(weight=100, replicas=20),
    )
    assert [each.gate for each in stages(Strategy(canary=Canary(steps=STEPS)), 20)] == [False, True, False]


def test_blue_green_changes_over_at_once() -> None:
    strategy = Strategy(blue_green=BlueGreen(manual=True, keep_old=Duration(seconds=60)), gate=GATE)
    assert stages(strategy, 3) == (Stage(weight=0, replicas=3, manual=True, gate=True), Stage(weight=100, replicas=3))
    assert drain_s(strategy, 3) == 60
    assert drain_s(Strategy(), 3) == 3


@pytest.mark.parametrize(
    "strategy", [Strategy(), Strategy(canary=Canary(steps=STEPS)), Strategy(blue_green=BlueGreen())]
)
def test_what_sleeps_goes_over_at_once(strategy: Strategy) -> None:
    assert stages(strategy, 0) == (Stage(weight=100, replicas=0),)
