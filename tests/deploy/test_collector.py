"""The trace collector: what comes in over OTLP, in any of its forms, is what a trace answers with."""

import asyncio
import gzip
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.harness.collector import RunningCollector, collector
from tests.harness.pki import TokenSigner

pytestmark = pytest.mark.integration

PROTOBUF = "application/x-protobuf"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT, CHILD = "b7ad6b7169203331", "00f067aa0ba902b7"


@pytest_asyncio.fixture
async def kept(tmp_path: Path) -> AsyncIterator[RunningCollector]:
    async with collector(tmp_path) as running:
        yield running


async def post(kept: RunningCollector, body: bytes, kind: str, **headers: str) -> int:
    """Sends an export; the status of the answer."""
    status, _ = await ask(kept, "/v1/traces", body, {"content-type": kind, **headers})
    return status


async def query(kept: RunningCollector, trace_id: str = TRACE, *, user: str = "root") -> tuple[int, Any]:
    """Asks for a trace; the status and the document."""
    bearer = {"authorization": f"Bearer {kept.tokens.token(f'users/{user}')}"} if user else {}
    return await ask(kept, f"/api/traces/{trace_id}", None, bearer)


async def ask(kept: RunningCollector, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
    asked = urllib.request.Request(f"https://{kept.http}{path}", body, headers)
    context = ssl.create_default_context(cafile=kept.roots)

    def read() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(asked, timeout=10, context=context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    status, content = await asyncio.to_thread(read)
    return status, json.loads(content) if content.startswith(b"{") else content


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
        (export().SerializeToString(), {"kind": PROTOBUF}),
        (
            gzip.compress(export().SerializeToString()),
            {"kind": PROTOBUF, "content-encoding": "gzip"},
        ),
        (as_json().encode(), {"kind": "application/json"}),
    ],
    ids=["protobuf", "gzip", "json"],
)
async def test_spans_come_back_by_their_trace(kept: RunningCollector, body: bytes, headers: dict[str, str]) -> None:
    assert await post(kept, body, **headers) == 200
    _, found = await query(kept, TRACE.upper())
    job, step = found["spans"]
    assert (job["span_id"], job["parent_id"], job["service"]) == (PARENT, "", "trainer")
    assert (step["parent_id"], step["is_error"], step["kind"]) == (PARENT, True, "internal")
    assert step["attributes"] == {"step": 7}


async def test_a_span_that_comes_twice_is_kept_once(kept: RunningCollector) -> None:
    for _ in range(2):
        await post(kept, export().SerializeToString(), PROTOBUF)
    _, found = await query(kept)
    assert len(found["spans"]) == 2


async def test_an_unknown_trace_is_not_found(kept: RunningCollector) -> None:
    assert (await query(kept))[0] == 404


@pytest.mark.parametrize("kind", ["application/json", PROTOBUF])
async def test_what_is_no_export_is_refused(kept: RunningCollector, kind: str) -> None:
    assert await post(kept, b"\xffnonsense", kind) == 400


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (bytes(17 << 20), {}, 413),
        (gzip.compress(bytes(17 << 20)), {"content-encoding": "gzip"}, 413),
        (b"not packed", {"content-encoding": "gzip"}, 400),
        (gzip.compress(export().SerializeToString()), {"content-encoding": "gzip"}, 200),
    ],
    ids=["large", "large when unpacked", "not packed", "control"],
)
async def test_what_is_too_large_is_refused(
    kept: RunningCollector, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert await post(kept, body, PROTOBUF, **headers) == status


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({}, "TOKEN_MISSING"),
        ({"authorization": "Basic cm9vdDo="}, "TOKEN_MISSING"),
        ({"authorization": "Bearer none"}, "TOKEN_INVALID"),
        ({"authorization": f"Bearer {TokenSigner().token('users/root')}"}, "TOKEN_INVALID"),
    ],
    ids=["none", "another scheme", "no token", "another issuer's key"],
)
async def test_who_is_not_signed_in_reads_nothing(kept: RunningCollector, header: dict[str, str], reason: str) -> None:
    await post(kept, export().SerializeToString(), PROTOBUF)
    status, told = await ask(kept, f"/api/traces/{TRACE}", None, header)
    assert (status, told["reason"]) == (401, reason)
    assert (await query(kept))[0] == 200, "the negative control"


async def test_a_revoked_token_reads_nothing(kept: RunningCollector) -> None:
    await post(kept, export().SerializeToString(), PROTOBUF)
    assert (await query(kept))[0] == 200, "the negative control"
    kept.access.apply(replace(kept.policy(), revision=2, revoked_sessions=frozenset({"session-users/root"})))
    assert (await query(kept))[0] == 401


async def test_before_there_is_a_policy_nobody_reads(tmp_path: Path) -> None:
    async with collector(tmp_path, knows_policy=False) as kept:
        assert await post(kept, export().SerializeToString(), PROTOBUF) == 200
        status, told = await query(kept)
        assert (status, told["reason"]) == (503, "POLICY_NOT_READY")
        kept.access.apply(kept.policy())
        assert (await query(kept))[0] == 200, "the negative control"


async def test_a_trace_that_names_another_project_looks_absent(kept: RunningCollector) -> None:
    absent = await query(kept, user="bob")
    named = export()
    value = AnyValue(string_value="projects/demo/jobs/digits")
    named.resource_spans[0].resource.attributes.append(KeyValue(key="lepton.job", value=value))
    await post(kept, named.SerializeToString(), PROTOBUF)
    assert await query(kept, user="bob") == absent
    assert await query(kept, user="nobody") == absent
    for user in ("ada", "root"):
        assert (await query(kept, user=user))[0] == 200, "the negative control"
