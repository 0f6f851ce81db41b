"""A rank's part of the job's trace: spans under the TRACEPARENT it was started with, exported over OTLP, flushed before it exits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, Self

from lepton.train.environment import RankEnvironment

_FLUSH_TIMEOUT_MS: Final = 3000


class Span(Protocol):
    """The part of a span that recipes use."""

    def set_attribute(self, key: str, value: str | bool | int | float) -> None: ...


class _NoSpan:
    def set_attribute(self, key: str, value: str | bool | int | float) -> None:
        """Drops the attribute: the trace is not sampled."""


class Tracing:
    """Makes the rank's spans; touches no telemetry library unless the trace is sampled and has somewhere to go."""

    def __init__(self, environment: RankEnvironment) -> None:
        self._environment = environment
        self._provider: Any = None
        self._tracer: Any = None

    def __enter__(self) -> Self:
        place = self._environment
        if not place.otlp_endpoint or not _is_sampled(place.traceparent):
            return self
        # Only here: an exporter opens a gRPC channel, and its threads must not exist before the launcher's fork.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        facts = {"service.name": "rank", "lepton.rank": place.rank, "lepton.job": place.job}
        self._provider = TracerProvider(resource=Resource(facts), shutdown_on_exit=False)
        is_plain = not place.otlp_endpoint.startswith("https://")
        exporter = OTLPSpanExporter(endpoint=place.otlp_endpoint, insecure=is_plain, timeout=2)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("lepton.rank")
        return self

    def __exit__(self, *error: object) -> None:
        if self._provider is not None:
            self._provider.force_flush(_FLUSH_TIMEOUT_MS)

    @contextmanager
    def root(self, name: str, **attributes: str | int | float) -> Iterator[Span]:
        """The rank's outermost span, child of the span that the agent started it under."""
        if self._tracer is None:
            yield _NoSpan()
            return
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": self._environment.traceparent})
        with self._tracer.start_as_current_span(name, context=parent, attributes=attributes) as span:
            yield span

    @contextmanager
    def span(self, name: str, **attributes: str | int | float) -> Iterator[Span]:
        """A span within the current one."""
        if self._tracer is None:
            yield _NoSpan()
            return
        with self._tracer.start_as_current_span(name, attributes=attributes) as span:
            yield span


def _is_sampled(traceparent: str) -> bool:
    parts = traceparent.split("-")
    return len(parts) >= 4 and parts[3] != "" and parts[3][-1] in "13579bdfBDF"
