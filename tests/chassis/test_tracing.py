"""One trace through calls: what is sampled, how it is propagated, what spans say."""

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from bench.echo import SERVICE, Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis import telemetry
from lepton import errors
from tests.harness.mesh import serving

HELLO = EchoMessage(name="projects/acme", text="hello")
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Kept(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


@pytest.fixture
def kept() -> Kept:
    return Kept()


class Forwarding(Echo):
    """Calls itself once, by another method."""

    stub: EchoStub

    async def Echo(self, request: Any, context: Any) -> Any:
        with telemetry.span("think", kind="internal", depth=1):
            return await self.stub.Anyone(request)


async def test_a_sampled_trace_runs_through_servers_clients_and_spans(kept: Kept) -> None:
    servicer = Forwarding()
    with telemetry.tracing("trainer", exporter=kept, sample_ratio=0.0):
        async with serving((add_echo_to_server, servicer)) as mesh, mesh.client() as channel:
            servicer.stub = stub = EchoStub(channel)
            await stub.Echo(HELLO, metadata=(("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),))
            with telemetry.span("outside", parent=f"00-{TRACE}-b7ad6b7169203331-01") as outside:
                assert TRACE in outside.traceparent
    spans = {(span.name, span.kind): span for span in kept.spans}
    echo = spans[f"{SERVICE}/Echo", SpanKind.SERVER]
    think = spans["think", SpanKind.INTERNAL]
    sent = spans[f"{SERVICE}/Anyone", SpanKind.CLIENT]
    inner = spans[f"{SERVICE}/Anyone", SpanKind.SERVER]
    assert {format(span.context.trace_id, "032x") for span in kept.spans if span.context} == {TRACE}
    for span, parent in ((think, echo), (sent, think), (inner, sent)):
        assert span.parent is not None
        assert parent.context is not None
        assert span.parent.span_id == parent.context.span_id
    assert echo.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/Echo",
        "rpc.response.status_code": "OK",
        "lepton.principal": "users/alice",
    }
    assert sent.attributes is not None
    assert sent.attributes["rpc.response.status_code"] == "OK"
    assert echo.resource.attributes["service.name"] == "trainer"


async def test_an_unsampled_trace_leaves_no_span_and_stays_unsampled(kept: Kept) -> None:
    seen: list[str] = []

    class Listening(Forwarding):
        async def Anyone(self, request: Any, context: Any) -> Any:
            seen.extend(value for key, value in context.invocation_metadata() if key == "traceparent")
            with telemetry.span("inside"):
                return request

    servicer = Listening()
    with telemetry.tracing("trainer", exporter=kept, sample_ratio=0.0):
        async with serving((add_echo_to_server, servicer)) as mesh, mesh.client() as channel:
            servicer.stub = stub = EchoStub(channel)
            await stub.Echo(HELLO, metadata=(("traceparent", f"00-{TRACE}-b7ad6b7169203331-00"),))
            await stub.Echo(HELLO)
    assert kept.spans == []
    assert seen[0] == f"00-{TRACE}-b7ad6b7169203331-00"
    assert seen[1].endswith("-00")


@pytest.mark.parametrize(("ratio", "least", "most"), [(1.0, 400, 400), (0.25, 50, 150), (0.0, 0, 0)])
async def test_roots_are_sampled_by_ratio(kept: Kept, ratio: float, least: int, most: int) -> None:
    with telemetry.tracing("trainer", exporter=kept, sample_ratio=ratio):
        for _ in range(400):
            with telemetry.span("root"), telemetry.span("child"):
                pass
    assert least <= len(kept.spans) / 2 <= most


async def test_a_failed_call_marks_its_span_by_reason_and_never_by_text(kept: Kept) -> None:
    class Failing(Echo):
        async def Echo(self, request: Any, context: Any) -> Any:
            raise errors.Unavailable("LEADER_CHANGING", "the secret is swordfish")

    with telemetry.tracing("trainer", exporter=kept):
        async with serving((add_echo_to_server, Failing())) as mesh, mesh.client() as channel:
            with telemetry.span("call"), pytest.raises(errors.Unavailable):
                await EchoStub(channel).Echo(HELLO)
    server = next(span for span in kept.spans if span.kind is SpanKind.SERVER)
    assert server.status.status_code is StatusCode.ERROR
    assert server.status.description == "LEADER_CHANGING"
    assert "swordfish" not in "".join(span.to_json() for span in kept.spans)


async def test_who_has_heard_enough_of_a_stream_has_not_failed(kept: Kept) -> None:
    with telemetry.tracing("trainer", exporter=kept):
        async with serving((add_echo_to_server, Echo())) as mesh, mesh.client() as channel:
            with telemetry.span("call"):
                call = EchoStub(channel).Watch(EchoMessage(name="projects/acme", text="hello", count=1000))
                await call.read()
                call.cancel()
    client = next(span for span in kept.spans if span.kind is SpanKind.CLIENT)
    assert client.attributes is not None
    assert client.attributes["rpc.response.status_code"] == "CANCELLED"
    assert client.status.status_code is StatusCode.UNSET


async def test_a_collector_that_is_away_costs_nothing_but_spans() -> None:
    with telemetry.tracing("trainer", otlp_endpoint="http://127.0.0.1:9", sample_ratio=1.0):
        async with serving((add_echo_to_server, Echo())) as mesh, mesh.client() as channel:
            async with asyncio.timeout(5):
                for _ in range(20):
                    assert await EchoStub(channel).Echo(HELLO) == HELLO


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        "garbage",
        f"00-{TRACE}-b7ad6b7169203331",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{'g' * 32}-b7ad6b7169203331-01",
    ],
)
def test_a_malformed_traceparent_is_no_trace(header: str) -> None:
    assert telemetry.parse(header) is None
