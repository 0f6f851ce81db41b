"""One span as the collector keeps it, read from OTLP."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

Attribute = str | int | float | bool | list["Attribute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A finished span; ids are lower-case hex, times are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Attribute]

    def row(self) -> tuple[str, str, str]:
        """The span as (trace id, span id, JSON)."""
        return self.trace_id, self.span_id, json.dumps(asdict(self))


def read_spans(resources: Iterable[ResourceSpans]) -> Iterator[Span]:
    """Every span of an OTLP export."""
    for resource in resources:
        of_resource = _attributes(resource.resource.attributes)
        service = str(of_resource.get("service.name", "unknown"))
        ours = {key: value for key, value in of_resource.items() if key.startswith("lepton.")}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    service=service,
                    name=span.name,
                    kind=OtlpSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    is_error=span.status.code == Status.STATUS_CODE_ERROR,
                    attributes={**ours, **_attributes(span.attributes)},
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Attribute]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Attribute:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind in {"string_value", "int_value", "double_value", "bool_value"}:
        found: Attribute = getattr(value, kind)
        return found
    return ""
