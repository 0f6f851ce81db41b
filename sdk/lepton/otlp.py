"""Sends finished spans over OTLP, from a thread of its own; loaded only by processes that trace."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

if TYPE_CHECKING:
    from lepton.tracing import Kind, Span, Value

_KINDS: Final[Mapping["Kind", SpanKind]] = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("lepton")


class OtlpSink:
    """Turns our spans into the SDK's records and queues them for the exporter."""

    def __init__(
        self, service: str, endpoint: str, exporter: SpanExporter | None, attributes: Mapping[str, "Value"]
    ) -> None:
        self._resource = Resource.create({"service.name": service, **attributes})
        self._processor = BatchSpanProcessor(
            exporter or _exporter(endpoint), max_queue_size=8192, max_export_batch_size=1024, schedule_delay_millis=500
        )

    def take(self, span: "Span") -> None:
        """Queue a span; a full queue drops it."""
        trace = span.trace
        parent = SpanContext(trace.trace_id, span.parent_id, is_remote=False, trace_flags=_SAMPLED)
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=SpanContext(trace.trace_id, trace.span_id, is_remote=False, trace_flags=_SAMPLED),
                parent=parent if span.parent_id else None,
                resource=self._resource,
                attributes=span.attributes,
                events=[Event(name, facts, when_ns) for name, when_ns, facts in span.events],
                kind=_KINDS[span.kind],
                status=Status(StatusCode.ERROR, span.failure) if span.failure is not None else Status(),
                start_time=span.start_ns,
                end_time=span.end_ns,
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Send what is queued and stop; losing it is allowed, waiting for ever is not."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


def _exporter(endpoint: str) -> SpanExporter:
    if endpoint.rstrip("/").endswith("/v1/traces"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

        return Http(endpoint=endpoint, timeout=2)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

    return Grpc(endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=2)
