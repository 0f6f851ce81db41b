"""Row 32, streams: who watches its own is told of nobody else's changes, whatever it asks to go on from."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc.aio
import pytest

from chassis import watching
from tests.tenancy.conftest import Tenants
from tests.tenancy.leaks import Prober
from tests.tenancy.population import Belongings
from tests.tenancy.rpcs import Rpc, every_rpc

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]

CHANGES: Final[Mapping[str, tuple[str, str]]] = {
    "WatchBatchPredictions": ("CancelBatchPrediction", "CreateBatchPrediction"),
    "WatchDeployments": ("UpdateDeployment", "CreateDeployment"),
    "WatchJobs": ("CancelJob", "CreateJob"),
    "WatchOptimizations": ("CancelOptimization", "CreateOptimization"),
    "WatchWorkloads": ("UpdateWorkload", "CreateWorkload"),
}
"""By watch: what changes something of another tenant, and what makes something that the watcher must be told of."""
OF_ALL: Final = frozenset({"WatchPools", "WatchNodes", "WatchQueues", "WatchFloatingResources"})
"""What belongs to no tenant."""
RPCS: Final = {rpc.name: rpc for rpc in every_rpc()}


def _fields(rpc: Rpc) -> Iterable[str]:
    names: Iterable[str] = rpc.descriptor.input_type.fields_by_name
    return names


async def test_every_stream_is_looked_at() -> None:
    streams = {rpc.name for rpc in every_rpc() if rpc.streams_responses and not rpc.streams_requests}
    ending = {"StreamLogs", "StreamMetrics", "DownloadArtifact", "ExportAudit"}  # they end, and are about one thing
    internal = {rpc.name for rpc in every_rpc() if rpc.rule.peers and not rpc.rule.permission}
    assert streams - ending - internal == set(CHANGES) | OF_ALL


@pytest.mark.parametrize("watch", sorted(CHANGES))
async def test_a_watch_tells_of_its_own_project_only(tenants: Tenants, watch: str) -> None:
    found, fresh = await _watched(tenants, watch)
    held = [text for text in tenants.prober.canaries if text.encode() in b"".join(found)]
    assert fresh.encode() in found[-1]
    assert not held


async def test_a_watch_that_looks_at_every_project_is_caught(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the project taken out of what is watched, the other's changes are seen."""
    changes = watching.changes

    def everything(kv: Any, prefix: str, revision: int) -> Any:
        return changes(kv, prefix.replace("/alpha/", "/"), revision)

    monkeypatch.setattr("services.scheduler.workloads.changes", everything)
    found, _ = await _watched(tenants, "WatchWorkloads")
    assert tenants.other.word.encode() in b"".join(found)


@pytest.mark.parametrize("watch", sorted(each for each in CHANGES if "name" in _fields(RPCS[each])))
async def test_a_watch_of_one_thing_of_another_is_answered_as_of_nothing(tenants: Tenants, watch: str) -> None:
    rpc, prober = RPCS[watch], tenants.prober
    kind = rpc.kind(tenants.other)
    request = rpc.request(tenants.caller, "")
    request.name = tenants.other.names[kind]
    absent = rpc.request(tenants.caller, "")
    absent.name = prober._absent(tenants.other.names[kind])
    found = await prober.ask(rpc, request, timeout_s=10)
    assert found.code in ("NOT_FOUND", "INVALID_ARGUMENT")
    assert found == prober._back(await prober.ask(rpc, absent, timeout_s=10))


@pytest.mark.parametrize("watch", sorted(OF_ALL))
async def test_what_belongs_to_all_tells_of_no_tenant(tenants: Tenants, watch: str) -> None:
    rpc, prober = RPCS[watch], tenants.prober
    answer = await prober.ask(rpc, rpc.request(tenants.caller, ""))
    assert answer.messages
    assert not answer.holds((*prober.canaries, tenants.caller.word))


@pytest.mark.parametrize("stream", ["StreamLogs", "StreamMetrics", "DownloadArtifact"])
async def test_what_a_job_prints_is_its_owners_alone(tenants: Tenants, stream: str) -> None:
    """That the canary is in the owner's own stream is the control of its absence from the other's."""
    rpc, prober = RPCS[stream], tenants.prober
    own = await prober.ask(rpc, rpc.request(tenants.caller, ""))
    assert own.holds([tenants.caller.secret])
    assert not own.holds(prober.canaries)
    assert not await prober.foreign(rpc)


async def _watched(tenants: Tenants, watch: str) -> tuple[list[bytes], str]:
    """All that a watch brings while the other changes something, until the watcher makes something; that one's id."""
    rpc, prober, other = RPCS[watch], tenants.prober, tenants.other
    change, make = CHANGES[watch]
    connection = await tenants.world.connect(tenants.world.served[rpc.path], tenants.caller.token)
    opened = connection.unary_stream(rpc.path, request_serializer=lambda each: each.SerializeToString())
    call = opened(rpc.request(tenants.caller, ""), timeout=30)
    found = [await call.read()]
    await _does(prober, RPCS[change], other)
    await _does(prober, RPCS[make], other)
    fresh = await _does(prober, RPCS[make], tenants.caller)
    while fresh.encode() not in found[-1]:
        message = await call.read()
        assert message is not grpc.aio.EOF
        found.append(message)
    call.cancel()
    return found, fresh


async def _does(prober: Prober, rpc: Rpc, tenant: Belongings) -> str:
    fresh = prober.fresh()
    answer = await prober.ask(rpc, rpc.request(tenant, fresh), tenant.token)
    assert answer.code == "OK", answer
    return fresh
