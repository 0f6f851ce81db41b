"""OTLP in its JSON form, which Triton's exporter sends: protobuf's JSON, but with ids in hexadecimal."""

import base64
import json
from typing import Any, Final

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})


def parse(body: bytes) -> ExportTraceServiceRequest:
    """The export that a JSON document holds. Raises ValueError, json_format.ParseError."""
    request = ExportTraceServiceRequest()
    json_format.ParseDict(_with_base64_ids(json.loads(body)), request, ignore_unknown_fields=True)
    return request


def _with_base64_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_base64_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(bytes.fromhex(item)).decode() if key in _IDS else _with_base64_ids(item)
        for key, item in value.items()
    }
