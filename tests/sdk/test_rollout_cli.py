"""Strategies as they are written on the command line, and rollouts as they are told."""

from typing import Any

import pytest
import typer

from lepton.cli.rollout_words import lines
from lepton.cli.strategy_options import strategy
from lepton.inference.v1.deployment_pb2 import Deployment, Replica
from lepton.inference.v1.rollout_pb2 import GateVerdict, RolloutStatus, Strategy

NOTHING: dict[str, Any] = {
    "canary": "",
    "hold": 60.0,
    "manual": False,
    "blue_green": False,
    "keep_old": 0.0,
    "max_surge": None,
    "gate": False,
    "max_difference": None,
    "min_agreement": None,
    "max_accuracy_drop": None,
    "max_latency_ratio": None,
    "max_error_ratio": None,
    "window": 0.0,
}


def written(**options: Any) -> Strategy | None:
    return strategy(**{**NOTHING, **options})


def test_no_option_is_no_strategy_so_the_deployment_keeps_its_own() -> None:
    assert written() is None


def test_a_canary_has_the_steps_that_are_written() -> None:
    made = written(canary="0, 10,50%", hold=2.5, gate=True, max_accuracy_drop=0.02)
    assert made is not None
    assert [(step.weight, step.gate) for step in made.canary.steps] == [(0, True), (10, True), (50, True)]
    assert made.canary.steps[0].hold.ToMilliseconds() == 2500
    assert made.gate.max_accuracy_drop == 0.02
    assert not made.gate.HasField("min_label_agreement")


def test_a_bound_of_the_gate_asks_for_the_gate_and_latency_bounds_the_rollback_too() -> None:
    made = written(min_agreement=0.9, max_latency_ratio=3.0, max_error_ratio=0.2, window=30)
    assert made is not None
    assert (made.gate.min_label_agreement, made.gate.max_latency_ratio) == (0.9, 3.0)
    assert (made.rollback.max_latency_ratio, made.rollback.max_error_ratio) == (3.0, 0.2)
    assert made.rollback.window.seconds == 30
    assert made.WhichOneof("kind") is None


def test_blue_green_and_rolling() -> None:
    blue, rolling = written(blue_green=True, keep_old=60), written(max_surge=3)
    assert blue is not None
    assert rolling is not None
    assert blue.blue_green.keep_old.seconds == 60
    assert rolling.rolling.max_surge == 3


@pytest.mark.parametrize("options", [{"canary": "10,x"}, {"canary": "101"}, {"canary": "10", "blue_green": True}])
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(typer.BadParameter):
        written(**options)


def test_a_verdict_is_told_check_by_check() -> None:
    checks = [
        GateVerdict.Check(measure=GateVerdict.SIGNATURE, passed=True, message="the signatures are the same"),
        GateVerdict.Check(measure=GateVerdict.ACCURACY, message="accuracy is 10.9%, was 100.0%, 1.0% may be lost"),
    ]
    verdict = GateVerdict(
        outcome=GateVerdict.REFUSED,
        stable_revision=1,
        candidate_revision=2,
        checks=checks,
        golden_rows=64,
        live_requests=7,
    )
    status = RolloutStatus(
        state=RolloutStatus.REFUSED,
        message="refused: accuracy is 10.9%",
        stable_revision=1,
        candidate_revision=2,
        targets=[RolloutStatus.Target(revision=1, weight=100), RolloutStatus.Target(revision=2)],
        verdicts=[verdict],
    )
    replicas = [Replica(is_ready=True, revision=1), Replica(is_ready=True, revision=1), Replica(revision=2)]
    assert list(lines(Deployment(rollout=status, replica_states=replicas))) == [
        "REFUSED  refused: accuracy is 10.9%",
        "  revision 1 (stable): 100 % of the calls, 2 ready",
        "  revision 2 (new): 0 % of the calls, 0 ready",
        "  REFUSED at step 1: revision 2 against 1 on 64 golden rows, 7 live requests",
        "    ok    the signatures are the same",
        "    FAIL  accuracy is 10.9%, was 100.0%, 1.0% may be lost",
    ]
