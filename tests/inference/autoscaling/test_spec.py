"""What a deployment may wish: defaults are filled in, contradictions are named by their field."""

from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration

from lepton.errors import InvalidArgument
from lepton.inference.v1.autoscaling_pb2 import Autoscaling
from services.inference.autoscaling.spec import check, spec_of

Targets = Autoscaling.Targets


def test_without_a_target_calls_in_flight_are_one() -> None:
    spec = spec_of(Autoscaling(max_replicas=4))
    assert (spec.in_flight, spec.look_back_s, spec.panic_window_s, spec.held_requests) == (4.0, 30.0, 3.0, 100)
    assert spec_of(Autoscaling(max_replicas=4, targets=Targets(utilization=0.5))).in_flight == 0


def test_what_is_set_counts_also_when_it_is_nothing() -> None:
    wish = Autoscaling(max_replicas=4, down_stabilization=Duration(), look_back=Duration(seconds=5))
    spec = spec_of(wish)
    assert (spec.down_stabilization_s, spec.look_back_s, spec.panic_window_s) == (0.0, 5.0, 0.5)


@pytest.mark.parametrize(
    ("field", "wish"),
    [
        ("min_replicas", lambda: Autoscaling(min_replicas=5, max_replicas=4)),
        ("targets.queue_delay", lambda: Autoscaling(max_replicas=4, targets=Targets(queue_delay=Duration()))),
        ("panic_window", lambda: Autoscaling(max_replicas=4, panic_window=Duration(seconds=60))),
        (
            "scale_to_zero_delay",
            lambda: Autoscaling(min_replicas=1, max_replicas=4, scale_to_zero_delay=Duration(seconds=60)),
        ),
    ],
)
def test_a_contradiction_is_named_by_its_field(field: str, wish: Callable[[], Autoscaling]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(wish())
    assert list(refused.value.fields) == [f"deployment.autoscaling.{field}"]
