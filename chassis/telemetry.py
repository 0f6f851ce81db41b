"""Traces: the sampling decision, spans and W3C trace context; the SDK is touched only for spans that are sampled.

One tracer per process, because a trace crosses every module and must never be a reason to pass an argument.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from time import time_ns
from types import TracebackType
from typing import Final, Protocol, Self

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

Value = str | bool | int | float
SERVER: Final = SpanKind.SERVER
CLIENT: Final = SpanKind.CLIENT
INTERNAL: Final = SpanKind.INTERNAL
_SCOPE: Final = InstrumentationScope("lepton")
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class Trace:
    """A position in a trace: where the next span or outgoing call attaches."""

    __slots__ = ("is_sampled", "span_id", "trace_id")

    def __init__(self, trace_id: int, span_id: int, is_sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled

    @property
    def traceparent(self) -> str:
        """The W3C header."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.is_sampled else '00'}"


class Span:
    """An operation being timed; it becomes a record of the SDK when it ends."""

    __slots__ = ("_events", "_failure", "_parent_id", "_start_ns", "attributes", "kind", "name", "trace")

    def __init__(self, name: str, trace: Trace, parent_id: int, kind: SpanKind, attributes: dict[str, Value]) -> None:
        self.name = name
        self.trace = trace
        self.kind = kind
        self.attributes = attributes
        self._parent_id = parent_id
        self._start_ns = time_ns()
        self._events: list[Event] = []
        self._failure: str | None = None

    def set(self, key: str, value: Value) -> None:
        """Add an attribute. Never a secret, never a caller's text of unbounded length."""
        self.attributes[key] = value

    def event(self, name: str, **attributes: Value) -> None:
        """Mark a moment within the span."""
        self._events.append(Event(name, attributes, time_ns()))

    def fail(self, reason: str) -> None:
        """Mark the span as failed, by the error's reason and never by its text."""
        self._failure = reason

    def end(self) -> None:
        """Hand the finished span to the exporter; a full queue drops it."""
        processor = _tracer.processor
        if processor is None:
            return
        parent = SpanContext(self.trace.trace_id, self._parent_id, is_remote=False, trace_flags=_SAMPLED)
        processor.on_end(
            ReadableSpan(
                name=self.name,
                context=SpanContext(self.trace.trace_id, self.trace.span_id, is_remote=False, trace_flags=_SAMPLED),
                parent=parent if self._parent_id else None,
                resource=_tracer.resource,
                attributes=self.attributes,
                events=self._events,
                kind=self.kind,
                status=Status(StatusCode.ERROR, self._failure) if self._failure is not None else Status(),
                start_time=self._start_ns,
                end_time=time_ns(),
                instrumentation_scope=_SCOPE,
            )
        )


class _Sink(Protocol):
    def on_end(self, span: ReadableSpan) -> None: ...


class _Tracer:
    __slots__ = ("bound", "processor", "resource")

    def __init__(self) -> None:
        self.processor: _Sink | None = None
        self.resource = Resource({})
        self.bound = 0  # root traces with an id below this are sampled


_tracer: Final = _Tracer()
_current: ContextVar[Trace | None] = ContextVar("lepton_trace", default=None)


@contextmanager
def tracing(
    service: str,
    *,
    otlp_endpoint: str = "",
    sample_ratio: float = 1.0,
    exporter: SpanExporter | None = None,
    attributes: Mapping[str, Value] | None = None,
) -> Iterator[None]:
    """Export the spans of this process over OTLP while the block runs; without an endpoint nothing is sampled."""
    if exporter is None and not otlp_endpoint:
        yield
        return
    processor = BatchSpanProcessor(
        exporter or _otlp(otlp_endpoint), max_queue_size=8192, max_export_batch_size=1024, schedule_delay_millis=500
    )
    _tracer.resource = Resource.create({"service.name": service, **(attributes or {})})
    _tracer.bound = int(min(max(sample_ratio, 0.0), 1.0) * (1 << 64))
    _tracer.processor = processor
    try:
        yield
    finally:
        _tracer.processor = None
        _tracer.bound = 0
        processor.shutdown()


def _otlp(endpoint: str) -> SpanExporter:
    # Imported here because the exporter's import costs 0.2 s, which short commands without tracing need not pay.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=5)


def start_span(
    name: str, parent: Trace | None, kind: SpanKind = INTERNAL, attributes: dict[str, Value] | None = None
) -> Span | None:
    """A span under this parent, or None when the trace is not sampled; who starts it ends it."""
    if _tracer.processor is None:
        return None
    if parent is None:
        trace_id = secrets.randbits(128)
        if (trace_id & 0xFFFFFFFFFFFFFFFF) >= _tracer.bound:
            return None
        return Span(name, Trace(trace_id, _span_id(), True), 0, kind, attributes or {})
    if not parent.is_sampled:
        return None
    return Span(name, Trace(parent.trace_id, _span_id(), True), parent.span_id, kind, attributes or {})


class _Scope:
    """`with span(...)`: makes the span current and ends it; the span is None when the trace is not sampled."""

    __slots__ = ("_span", "_token", "_trace")

    def __init__(self, span: Span | None, trace: Trace | None) -> None:
        self._span = span
        self._trace = span.trace if span is not None else trace
        self._token: Token[Trace | None] | None = None

    def __enter__(self) -> Self:
        self._token = _current.set(self._trace)
        return self

    def set(self, key: str, value: Value) -> None:
        if self._span is not None:
            self._span.set(key, value)

    def event(self, name: str, **attributes: Value) -> None:
        if self._span is not None:
            self._span.event(name, **attributes)

    def fail(self, reason: str) -> None:
        if self._span is not None:
            self._span.fail(reason)

    @property
    def traceparent(self) -> str:
        return self._trace.traceparent if self._trace is not None else ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        if self._span is not None:
            if error is not None:
                self._span.fail(getattr(error, "reason", type(error).__name__))
            self._span.end()


def span(
    name: str, *, parent: str | None = None, kind: SpanKind = INTERNAL, **attributes: Value
) -> "AbstractContextManager[_Scope]":
    """Time a block: under `parent` (a traceparent, e.g. one stored with a job) when given, else under the current span."""
    above = parse(parent) if parent else _current.get()
    started = start_span(name, above, kind, attributes)
    # An unsampled root still gets an id, so that everything below it and every callee decides alike.
    return _Scope(started, above or (None if started else Trace(secrets.randbits(128), _span_id(), False)))


def parse(traceparent: str) -> Trace | None:
    """The trace that a W3C header names; None when it is malformed."""
    parts = traceparent.split("-")
    if len(parts) < 4 or len(parts[0]) != 2 or len(parts[1]) != 32 or len(parts[2]) != 16 or len(parts[3]) != 2:
        return None
    try:
        trace = Trace(int(parts[1], 16), int(parts[2], 16), bool(int(parts[3], 16) & 1))
    except ValueError:
        return None
    return trace if trace.trace_id and trace.span_id and parts[0] != "ff" else None


def current_trace() -> Trace | None:
    """The trace that this task works in."""
    return _current.get()


def traceparent() -> str:
    """The header for an outgoing call or for a record that continues this trace; empty outside of any trace."""
    trace = _current.get()
    return trace.traceparent if trace is not None else ""


def enter_trace(trace: Trace | None) -> None:
    """Make this the task's trace until the task ends."""
    _current.set(trace)


def is_tracing() -> bool:
    """Whether sampled spans go anywhere."""
    return _tracer.processor is not None


def _span_id() -> int:
    return secrets.randbits(64) or 1
