"""`--max-replicas` and its kin: what is typed, what is refused in words, and what is shown of it."""

from typing import Any

import pytest
import typer
from google.protobuf.duration_pb2 import Duration

from lepton.cli.autoscaling_options import asked, autoscaling, scaling_lines
from lepton.inference.v1.autoscaling_pb2 import Autoscaling, Scaling, ScalingDecision
from lepton.inference.v1.deployment_pb2 import Deployment


def test_without_a_most_there_is_no_autoscaling() -> None:
    assert autoscaling(0, 0) is None


@pytest.mark.parametrize(
    "given",
    [{"in_flight": 4.0}, {"queue_delay_ms": 5.0}, {"sleep_after_s": 0.0}, {"down_after_s": 9.0}, {"forecast": True}],
)
def test_targets_without_a_most_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(typer.BadParameter, match="--max-replicas"):
        autoscaling(0, 0, **given)


def test_everything_that_can_be_typed() -> None:
    wish = autoscaling(
        0,
        4,
        in_flight=4,
        requests=100,
        queue_delay_ms=2.5,
        utilization=0.7,
        sleep_after_s=30,
        down_after_s=0,
        forecast=True,
    )
    assert wish == Autoscaling(
        max_replicas=4,
        targets=Autoscaling.Targets(
            in_flight=4, requests_per_second=100, queue_delay=Duration(nanos=2_500_000), utilization=0.7
        ),
        scale_to_zero_delay=Duration(seconds=30),
        down_stabilization=Duration(),
        forecast=True,
    )


def test_what_is_shown() -> None:
    deployment = Deployment(replicas=1, ready_replicas=3)
    assert (asked(deployment), scaling_lines(deployment)) == (1, [])
    deployment.autoscaling.CopyFrom(Autoscaling(max_replicas=4))
    assert asked(deployment) == 1
    made = ScalingDecision(before=1, after=4, why="a burst")
    deployment.scaling.CopyFrom(Scaling(desired=4, current=3, why="14 calls in flight", decisions=[made]))
    assert asked(deployment) == 4
    lines = scaling_lines(deployment)
    assert lines[0] == "scales between 0 and 4 replicas, by 4 calls in flight each"
    assert lines[1] == "desired 4, current 3: 14 calls in flight"
    assert lines[2].endswith("1 -> 4  a burst")
