"""The trace collector: what comes in over OTLP, in any of its forms, is what a trace answers with."""

import gzip
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from deploy.telemetry.collector.receiver import http_application
from deploy.telemetry.collector.store import SpanStore

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT, CHILD = "b7ad6b7169203331", "00f067aa0ba902b7"


class Collector:
    """The collector's HTTP side, really served."""

    def __init__(self, address: str) -> None:
        self._address = address

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> int:
        """Sends an export; the status of the answer."""
        asked = urllib.request.Request(f"{self._address}/v1/traces", body, headers or {}, method="POST")
        return self._status(asked)

    def status(self, trace_id: str) -> int:
        """The status of a query."""
        return self._status(urllib.request.Request(f"{self._address}/api/traces/{trace_id}"))

    def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """What a query answers."""
        with urllib.request.urlopen(f"{self._address}/api/traces/{trace_id}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["spans"]
        return found

    def _status(self, asked: urllib.request.Request) -> int:
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    listener = socket.create_server(("127.0.0.1", 0))
    with SpanStore(tmp_path / "spans.sqlite") as store:
        server = uvicorn.Server(uvicorn.Config(http_application(store), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Collector(f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join()
            listener.close()


def export() -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value="trainer")))
    spans = resource.scope_spans.add().spans
    spans.add(trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(PARENT), name="job", start_time_unix_nano=1)
    spans.add(
        trace_id=bytes.fromhex(TRACE),
        span_id=bytes.fromhex(CHILD),
        parent_span_id=bytes.fromhex(PARENT),
        name="step",
        kind=OtlpSpan.SPAN_KIND_INTERNAL,
        start_time_unix_nano=2,
        end_time_unix_nano=3,
        status=Status(code=Status.STATUS_CODE_ERROR),
        attributes=[KeyValue(key="step", value=AnyValue(int_value=7))],
    )
    return request


def as_json() -> str:
    spans = [
        {"traceId": TRACE, "spanId": PARENT, "name": "job", "startTimeUnixNano": "1"},
        {
            "traceId": TRACE, "spanId": CHILD, "parentSpanId": PARENT, "name": "step", "kind": 1,
            "startTimeUnixNano": "2", "endTimeUnixNano": "3", "status": {"code": 2},
            "attributes": [{"key": "step", "value": {"intValue": "7"}}],
        },
    ]  # fmt: skip
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "trainer"}}]}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]})


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (export().SerializeToString(), {"content-type": "application/x-protobuf"}),
        (
            gzip.compress(export().SerializeToString()),
            {"content-type": "application/x-protobuf", "content-encoding": "gzip"},
        ),
        (as_json().encode(), {"content-type": "application/json"}),
    ],
    ids=["protobuf", "gzip", "json"],
)
def test_spans_come_back_by_their_trace(collector: Collector, body: bytes, headers: dict[str, str]) -> None:
    assert collector.post(body, headers) == 200
    job, step = collector.spans(TRACE.upper())
    assert (job["span_id"], job["parent_id"], job["service"]) == (PARENT, "", "trainer")
    assert (step["parent_id"], step["is_error"], step["kind"]) == (PARENT, True, "internal")
    assert step["attributes"] == {"step": 7}


def test_a_span_that_comes_twice_is_kept_once(collector: Collector) -> None:
    for _ in range(2):
        collector.post(export().SerializeToString(), {"content-type": "application/x-protobuf"})
    assert len(collector.spans(TRACE)) == 2


def test_an_unknown_trace_is_not_found(collector: Collector) -> None:
    assert collector.status(TRACE) == 404


@pytest.mark.parametrize("kind", ["application/json", "application/x-protobuf"])
def test_what_is_no_export_is_refused(collector: Collector, kind: str) -> None:
    assert collector.post(b"\xffnonsense", {"content-type": kind}) == 400
