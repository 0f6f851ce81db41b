"""The spans of a rank: sent if those who started it have their own trace recorded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lepton.tracing import Scope, Value, parse, span, tracing
from lepton.train.environment import RankEnvironment


@contextmanager
def traced(
    place: RankEnvironment, service: str, name: str, attributes: Mapping[str, Value] | None = None
) -> Iterator[Scope]:
    """The span of all that this process does; `attributes` are the process's, and so on every span of it."""
    above = parse(place.traceparent)
    is_sampled = above is not None and above.is_sampled  # else no telemetry library is even touched
    with (
        tracing(
            service,
            otlp_endpoint=place.otlp_endpoint if is_sampled else "",
            otlp_certificate=place.otlp_certificate,
            attributes=attributes,
        ),
        span(name, parent=place.traceparent) as whole,
    ):
        yield whole
