"""How much a deployment's callers may ask of it, as the gateway takes it."""

from lepton.inference.v1.call_limits_pb2 import CallLimits
from services.inference.envoy import RouteLimits


def route_limits(given: CallLimits) -> RouteLimits:
    """The limits of a route; what is not set is the gateway's default."""
    usual = RouteLimits()
    return RouteLimits(
        max_deadline_s=given.max_deadline.ToNanoseconds() / 1e9,
        requests_per_s=given.requests_per_second,
        requests_per_s_per_caller=given.requests_per_second_per_caller,
        burst_s=given.burst.ToNanoseconds() / 1e9 or usual.burst_s,
        max_in_flight=given.max_in_flight,
        max_stream_s=given.max_stream.ToNanoseconds() / 1e9 or usual.max_stream_s,
    )
