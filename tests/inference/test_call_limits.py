"""A deployment's limits as the gateway takes them."""

from google.protobuf.duration_pb2 import Duration

from lepton.inference.v1.call_limits_pb2 import CallLimits
from services.inference.call_limits import route_limits
from services.inference.envoy import RouteLimits


def test_what_is_not_set_is_the_gateways_default() -> None:
    assert route_limits(CallLimits()) == RouteLimits()


def test_every_limit_is_taken_over() -> None:
    given = CallLimits(
        max_deadline=Duration(nanos=250_000_000),
        requests_per_second=100,
        requests_per_second_per_caller=2.5,
        burst=Duration(seconds=3),
        max_in_flight=7,
        max_stream=Duration(seconds=60),
    )
    assert route_limits(given) == RouteLimits(
        max_deadline_s=0.25,
        requests_per_s=100,
        requests_per_s_per_caller=2.5,
        burst_s=3,
        max_in_flight=7,
        max_stream_s=60,
    )
