"""Sends finished spans over OTLP, from a thread of its own; loaded only by processes that trace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grpc import ssl_channel_credentials
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
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
_TIMEOUT_S: Final = 2


class OtlpSink:
    """Turns our spans into the SDK's records and queues them for the exporter."""

    def __init__(self, service: str, exporter: SpanExporter, attributes: Mapping[str, "Value"]) -> None:
        self._resource = Resource.create({"service.name": service, **attributes})
        self._processor = BatchSpanProcessor(
            exporter, max_queue_size=8192, max_export_batch_size=1024, schedule_delay_millis=500
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


def exporter_to(endpoint: str, certificate: Path | None = None) -> SpanExporter:
    """An exporter to an OTLP endpoint; at `https://` it trusts the authorities in a PEM file, else the system's."""
    if certificate is not None and endpoint.startswith("https://"):
        return FollowingExporter(endpoint, certificate)
    return _exporter(endpoint, certificate, None)


class FollowingExporter(SpanExporter):
    """Exports over TLS and follows the file of the authorities: the collector's may be replaced while this runs.

    While there is no such file, spans are lost: a service starts to trace before it has joined the mesh.
    """

    def __init__(self, endpoint: str, certificate: Path) -> None:
        self._endpoint, self._certificate = endpoint, certificate
        self._trusted = b""
        self._exporter: SpanExporter | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch."""
        try:
            trusted = self._certificate.read_bytes()
        except OSError:
            return SpanExportResult.FAILURE
        if self._exporter is None or trusted != self._trusted:
            self.shutdown()
            self._trusted, self._exporter = trusted, _exporter(self._endpoint, self._certificate, trusted)
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        """Closes the connection."""
        if self._exporter is not None:
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is kept here."""
        return True


def _exporter(endpoint: str, certificate: Path | None, trusted: bytes | None) -> SpanExporter:
    if endpoint.rstrip("/").endswith("/v1/traces"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http
        from requests import Session

        session = Session()
        session.trust_env = certificate is None  # else REQUESTS_CA_BUNDLE would be trusted instead (psf/requests#3829)
        path = str(certificate) if certificate is not None else None
        return Http(endpoint=endpoint, certificate_file=path, session=session, timeout=_TIMEOUT_S)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

    if not endpoint.startswith("https://"):
        return Grpc(endpoint=endpoint, insecure=True, timeout=_TIMEOUT_S)
    return Grpc(endpoint=endpoint, credentials=ssl_channel_credentials(trusted), timeout=_TIMEOUT_S)
