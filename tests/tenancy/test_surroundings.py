"""Row 32, beside the answers: pages of metrics, logs, traces and the audit log keep tenants apart too."""

import io
import json
import logging
import urllib.request
from asyncio import to_thread
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from chassis import logs, telemetry
from lepton.auth.v1.audit_service_pb2 import QueryAuditResponse
from tests.harness.wait import until
from tests.tenancy.conftest import Tenants
from tests.tenancy.rpcs import every_rpc

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]

RPCS: Final = {rpc.name: rpc for rpc in every_rpc()}
LABELLED: Final = telemetry.gauge("tenancy_control", "What a label of a metric must not hold.", ("project",))


class Kept(SpanExporter):
    """Every span that was sampled."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def recorded(tenants: Tenants) -> AsyncIterator[tuple[Tenants, Kept, str]]:
    """Both tenants call every method that reads, each under a trace of its own; the spans and the logs of it."""
    kept = Kept()
    with telemetry.tracing("tenancy", exporter=kept, sample_ratio=0.0), _logged() as lines:
        for tenant in (tenants.caller, tenants.other):
            await _calls(tenants, tenant, _trace(tenant.word))
    yield tenants, kept, lines.getvalue()  # behind the block, which has sent every span


def _trace(word: str) -> str:
    return word.encode().hex().ljust(32, "0")


async def _calls(tenants: Tenants, tenant: Any, trace: str) -> None:
    """Its own methods; and two about the other's, which are refused and so logged and recorded."""
    prober = tenants.prober
    metadata = (("traceparent", f"00-{trace}-00000000000000ab-01"),)
    reads = [rpc for rpc in every_rpc() if rpc.is_read and not rpc.streams_responses]
    for rpc in [*reads, RPCS["UpdateModel"], RPCS["UpdateWorkload"], RPCS["CreateJob"]]:
        await prober.ask(rpc, rpc.request(tenant, prober.fresh()), tenant.token, metadata=metadata)


@contextmanager
def _logged() -> Iterator[io.StringIO]:
    """All logs of the process, as a service writes them."""
    root, lines = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.configure("tenancy", stream=lines)
    try:
        yield lines
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


async def _page(tenants: Tenants, service: str) -> str:
    url = f"http://127.0.0.1:{tenants.world.port(service, 'metrics')}/metrics"

    def read() -> str:
        with urllib.request.urlopen(url, timeout=10) as response:
            return str(response.read(), "utf-8")

    return await to_thread(read)


@pytest.mark.parametrize("service", ["auth", "scheduler", "trainer", "inference"])
async def test_no_metric_names_a_tenant_or_what_it_has(recorded: tuple[Tenants, Kept, str], service: str) -> None:
    tenants = recorded[0]
    page = await _page(tenants, service)
    assert "grpc_server_handled_total" in page
    assert not _named(tenants, page)


async def test_a_metric_with_a_tenant_in_a_label_is_caught(recorded: tuple[Tenants, Kept, str]) -> None:
    """The control."""
    tenants = recorded[0]
    LABELLED.labels(tenants.other.project).set(1)
    try:
        assert _named(tenants, await _page(tenants, "trainer"))
    finally:
        LABELLED.clear()


def _named(tenants: Tenants, text: str) -> list[str]:
    """What of either tenant a text tells."""
    both = (*tenants.prober.canaries, tenants.caller.word, *tenants.caller.uids.values())
    return [each for each in both if each in text]


async def test_what_tenants_keep_to_themselves_is_in_no_log_and_no_span(recorded: tuple[Tenants, Kept, str]) -> None:
    tenants, kept, lines = recorded
    assert lines.count("call served") >= 2
    assert len(kept.spans) > 60
    everything = lines + "".join(span.to_json() for span in kept.spans)
    for tenant in (tenants.caller, tenants.other):
        assert tenant.user in everything, "the control: this is where it would be"
        assert tenant.secret not in everything


async def test_a_trace_holds_the_spans_of_one_tenant_only(recorded: tuple[Tenants, Kept, str]) -> None:
    tenants, kept, _ = recorded
    for tenant, other in ((tenants.caller, tenants.other), (tenants.other, tenants.caller)):
        found = [
            span.to_json()
            for span in kept.spans
            if span.context and f"{span.context.trace_id:032x}" == _trace(tenant.word)
        ]
        assert any(tenant.user in each for each in found)
        assert not [each for each in found if other.word in each]


async def test_the_lines_about_one_tenants_calls_do_not_speak_of_the_other(
    recorded: tuple[Tenants, Kept, str],
) -> None:
    tenants, _, lines = recorded
    for tenant, other in ((tenants.caller, tenants.other), (tenants.other, tenants.caller)):
        own = [line for line in map(json.loads, lines.splitlines()) if line.get("trace_id") == _trace(tenant.word)]
        assert own
        assert not [line for line in own if other.word in json.dumps(line)]


async def test_the_audit_records_of_a_project_are_those_of_its_resources(tenants: Tenants) -> None:
    """Also while the other is being recorded; what somebody tried on a project is told to that project, not to him."""
    prober, query = tenants.prober, RPCS["QueryAudit"]
    await prober.ask(RPCS["GetJob"], RPCS["GetJob"].request(tenants.other, ""))

    async def is_recorded() -> bool:
        return bool((await _records(tenants, tenants.other)).count(tenants.caller.user))

    await until(is_recorded)
    own = await _records(tenants, tenants.caller)
    assert tenants.caller.word in own
    assert tenants.other.word not in own
    assert not await prober.foreign(query)


async def _records(tenants: Tenants, tenant: Any) -> str:
    """All records that a tenant gets to see, as text."""
    query, found, token = RPCS["QueryAudit"], "", ""
    while True:
        request = query.request(tenant, "")
        request.page_token, request.page_size = token, 1000
        answer = await tenants.prober.ask(query, request, tenant.token)
        page = QueryAuditResponse.FromString(answer.messages[0])
        found, token = found + str(page.audit_records), page.next_page_token
        if not token:
            return found
