"""Traces: the sampling decision, spans and W3C trace context, for services, ranks and the command line alike.

One tracer per process, because a trace crosses every module and must never be a reason to pass an argument. The
OpenTelemetry SDK is imported when tracing starts, and touched only for spans that are sampled.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from pathlib import Path
from random import getrandbits  # ids of spans are no secrets
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Value = str | bool | int | float
_HEADER: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_SAMPLED_DIGITS: Final = "13579bdf"
Kind = Literal["server", "client", "internal", "producer", "consumer"]


class Trace:
    """A position in a trace: where the next span or outgoing call attaches."""

    __slots__ = ("_header", "_span_id", "_trace_id", "is_sampled")

    def __init__(self, trace_id: int, span_id: int, is_sampled: bool, header: str = "") -> None:
        self._trace_id = trace_id
        self._span_id = span_id
        self._header = header  # of a received trace, whose ids are only read when somebody asks
        self.is_sampled = is_sampled

    @property
    def trace_id(self) -> int:
        """The id of the whole trace."""
        return self._trace_id or _number(self._header[3:35])

    @property
    def span_id(self) -> int:
        """The id of the span to attach to."""
        return self._span_id or _number(self._header[36:52])

    @property
    def traceparent(self) -> str:
        """The W3C header."""
        return self._header or f"00-{self._trace_id:032x}-{self._span_id:016x}-{'01' if self.is_sampled else '00'}"


class Span:
    """An operation being timed; it becomes a record of the SDK when it ends."""

    __slots__ = (
        "attributes", "end_ns", "events", "failure", "kind", "name", "parent_id", "start_ns", "trace",
    )  # fmt: skip

    def __init__(self, name: str, trace: Trace, parent_id: int, kind: Kind, attributes: dict[str, Value]) -> None:
        self.name = name
        self.trace = trace
        self.kind = kind
        self.attributes = attributes
        self.parent_id = parent_id
        self.start_ns = time_ns()
        self.end_ns = 0
        self.events: list[tuple[str, int, dict[str, Value]]] = []
        self.failure: str | None = None

    def set(self, key: str, value: Value) -> None:
        """Add an attribute. Never a secret, never a caller's text of unbounded length."""
        self.attributes[key] = value

    def event(self, name: str, **attributes: Value) -> None:
        """Mark a moment within the span."""
        self.events.append((name, time_ns(), attributes))

    def fail(self, reason: str) -> None:
        """Mark the span as failed, by the error's reason and never by its text."""
        self.failure = reason

    def end(self) -> None:
        """Hand the finished span to the exporter; a full queue drops it."""
        self.end_ns = time_ns()
        if _tracer.sink is not None:
            _tracer.sink.take(self)


class Sink(Protocol):
    """Where finished spans go."""

    def take(self, span: Span) -> None:
        """Keep the span; must not block."""
        ...

    def close(self) -> None:
        """Send what is kept."""
        ...


class _Tracer:
    __slots__ = ("bound", "sink")

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.bound = 0  # root traces whose id lies below this are sampled


_tracer: Final = _Tracer()
_current: ContextVar[Trace | None] = ContextVar("lepton_trace", default=None)
enter_trace: Final = _current.set  # makes it the task's trace until the task ends


@contextmanager
def tracing(
    service: str,
    *,
    otlp_endpoint: str = "",
    otlp_certificate: Path | None = None,
    sample_ratio: float = 1.0,
    exporter: "SpanExporter | None" = None,
    attributes: Mapping[str, Value] | None = None,
) -> Iterator[None]:
    """Export the spans of this process over OTLP while the block runs; without an endpoint nothing is sampled.

    At an `https://` endpoint the authorities in the PEM file `otlp_certificate` are trusted, as they stand there at any
    time; None = those of the system.
    """
    if exporter is None and not otlp_endpoint:
        yield
        return
    # The SDK's import costs 0.2 s, which processes without tracing need not pay.
    from lepton.otlp import OtlpSink, exporter_to

    sink = OtlpSink(service, exporter or exporter_to(otlp_endpoint, otlp_certificate), attributes or {})
    _tracer.bound = int(min(max(sample_ratio, 0.0), 1.0) * (1 << 64))
    _tracer.sink = sink
    try:
        yield
    finally:
        _tracer.sink = None
        _tracer.bound = 0
        sink.close()


def start_span(
    name: str, parent: Trace | None, kind: Kind = "internal", attributes: dict[str, Value] | None = None
) -> Span | None:
    """A span under this parent, or None when the trace is not sampled; who starts it ends it."""
    if _tracer.sink is None:
        return None
    if parent is None:
        trace_id = getrandbits(128) or 1
        if (trace_id & 0xFFFFFFFFFFFFFFFF) >= _tracer.bound:
            return None
        return Span(name, Trace(trace_id, _span_id(), True), 0, kind, attributes or {})
    if not parent.is_sampled:
        return None
    return Span(name, Trace(parent.trace_id, _span_id(), True), parent.span_id, kind, attributes or {})


class Scope:
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


def span(name: str, *, parent: str | None = None, kind: Kind = "internal", **attributes: Value) -> Scope:
    """Time a block, under `parent` (a traceparent, for example one stored with a job) or else the current span."""
    above = parse(parent) if parent else _current.get()
    started = start_span(name, above, kind, attributes)
    # An unsampled root still gets an id, so that everything below it and every callee decides alike.
    return Scope(started, above or (None if started else unsampled()))


def unsampled() -> Trace:
    """A new trace that is not recorded: its callees hear so and do not decide again."""
    return Trace(getrandbits(128) or 1, _span_id(), False)


def parse(traceparent: str) -> Trace | None:
    """The trace that a W3C header names; None when it is malformed."""
    if len(traceparent) == 55 and traceparent.endswith("-00"):
        return Trace(0, 0, False, traceparent)  # not recorded, so not worth looking at
    if _HEADER.fullmatch(traceparent) is None:
        return None
    return Trace(0, 0, traceparent[54] in _SAMPLED_DIGITS, traceparent[:55])


def current_trace() -> Trace | None:
    """The trace that this task works in."""
    return _current.get()


def traceparent() -> str:
    """The header for an outgoing call or for a record that continues this trace; empty outside of any trace."""
    trace = _current.get()
    return trace.traceparent if trace is not None else ""


def is_tracing() -> bool:
    """Whether sampled spans go anywhere."""
    return _tracer.sink is not None


def _number(digits: str) -> int:
    try:
        return int(digits, 16)
    except ValueError:
        return 0  # an unsampled caller may send anything


def _span_id() -> int:
    return getrandbits(64) or 1
