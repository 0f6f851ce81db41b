"""The RPCs on pools and workloads: answers, pages, watches, repeats and refusals."""

import asyncio
import uuid
from typing import Any

import pytest

from lepton.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
)
from lepton.reasons import TEXTS
from lepton.scheduler.v1 import pool_pb2, workload_pb2
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from tests.harness.agent import ScriptedAgent
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, pb, workload


async def test_a_pool_shows_what_its_nodes_have_and_what_is_used(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1", 2) as one, ScriptedAgent("pools/general/nodes/n2", 3) as two:
        await replica.connect(one)
        await replica.connect(two)
        await replica.submit("job", workload(2, cpu_milli=500))
        await replica.until_state("job", Workload.RUNNING)
        pool = await replica.admin.GetPool(pb.GetPoolRequest(name="pools/general"))
        assert (pool.node_count, pool.capacity.device_milli, pool.allocated.device_milli) == (2, 5000, 2000)
        assert pool.allocated.cpu_milli == 1000
        node = await replica.admin.GetNode(pb.GetNodeRequest(name=one.node))
        assert (node.capacity.device_milli, node.allocated.device_milli) == (2000, 2000)
        assert node.session_id == one.session_id
        with pytest.raises(FailedPrecondition, match="POOL_NOT_EMPTY"):
            await replica.admin.DeletePool(pb.DeletePoolRequest(name="pools/general"))


async def test_pools_are_created_listed_and_deleted(replica: Replica) -> None:
    created = await replica.create_pool("performance")
    assert created.uid
    assert getattr(created, "class") == pool_pb2.Pool.GENERAL
    with pytest.raises(AlreadyExists, match="POOL_ALREADY_EXISTS"):
        await replica.create_pool("performance")
    first = await replica.admin.ListPools(pb.ListPoolsRequest(page_size=1))
    assert [each.name for each in first.pools] == ["pools/general"]
    second = await replica.admin.ListPools(pb.ListPoolsRequest(page_size=1, page_token=first.next_page_token))
    assert [each.name for each in second.pools] == ["pools/performance"]
    assert second.pools[0].etag == created.etag
    assert not second.next_page_token
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await replica.admin.DeletePool(pb.DeletePoolRequest(name="pools/performance", etag='"other"'))
    await replica.admin.DeletePool(pb.DeletePoolRequest(name="pools/performance", etag=created.etag))
    with pytest.raises(NotFound):
        await replica.admin.GetPool(pb.GetPoolRequest(name="pools/performance"))


async def test_a_repeated_request_gets_the_first_answer(replica: Replica) -> None:
    request_id = str(uuid.uuid4())
    first, again = [await replica.submit("job", workload(1), request_id=request_id) for _ in range(2)]
    assert first == again
    with pytest.raises(AlreadyExists, match="IDEMPOTENCY_KEY_REUSED"):
        await replica.submit("other", workload(1), request_id=request_id)
    with pytest.raises(AlreadyExists, match="WORKLOAD_ALREADY_EXISTS"):
        await replica.submit("job", workload(1), request_id=str(uuid.uuid4()))


async def test_many_repeats_at_once_make_one_workload(replica: Replica) -> None:
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(*[replica.submit("job", workload(1), request_id=request_id) for _ in range(20)])
    assert len({each.uid for each in answers}) == 1


async def test_workloads_are_listed_page_by_page_as_of_one_revision(replica: Replica) -> None:
    for at in range(5):
        await replica.submit(f"w{at}", workload(1))
    await replica.submit("foreign", workload(1), project="other")
    seen, token = [], ""
    while True:
        request = pb.ListWorkloadsRequest(parent="projects/acme", page_size=2, page_token=token)
        page = await replica.trainer.ListWorkloads(request)
        seen += [each.name.rpartition("/")[2] for each in page.workloads]
        await replica.submit(f"a{len(seen)}", workload(1))  # not in the pages that follow
        token = page.next_page_token
        if not token:
            break
    assert seen == ["w0", "w1", "w2", "w3", "w4"]
    everything = await replica.trainer.ListWorkloads(pb.ListWorkloadsRequest(parent="projects/-", page_size=100))
    assert len(everything.workloads) == 9


async def test_a_watch_begins_with_what_there_is_and_resumes_after_a_revision(replica: Replica, kv: MemoryKV) -> None:
    await replica.submit("one", workload(1))
    events = []
    async for change in replica.trainer.WatchWorkloads(pb.WatchWorkloadsRequest(parent="projects/acme")):
        events.append(change)
        if change.event == pb.WatchWorkloadsResponse.BOOKMARK:
            break
    assert {each.workload.name for each in events[:-1]} == {"projects/acme/workloads/one"}
    revision = events[-1].revision
    await replica.submit("two", workload(1))
    resumed = pb.WatchWorkloadsRequest(parent="projects/acme", revision=revision)
    async for change in replica.trainer.WatchWorkloads(resumed):
        if change.workload.name.endswith("two"):
            assert change.revision > revision
            break
    last = (await kv.list("/lepton/")).revision
    await kv.compact(last)
    with pytest.raises(OutOfRange, match="REVISION_COMPACTED"):
        async for _ in replica.trainer.WatchWorkloads(resumed):
            pass


async def test_a_deleted_workload_is_told_to_watchers(replica: Replica) -> None:
    created = await replica.submit("job", workload(1))
    with pytest.raises(FailedPrecondition, match="WORKLOAD_NOT_ENDED"):
        await replica.trainer.DeleteWorkload(pb.DeleteWorkloadRequest(name=created.name))
    await replica.trainer.CancelWorkload(pb.CancelWorkloadRequest(name=created.name))
    await replica.until_state("job", Workload.CANCELLED)
    await replica.trainer.DeleteWorkload(pb.DeleteWorkloadRequest(name=created.name))
    with pytest.raises(NotFound):
        await replica.get("job")


def _two_groups(workload_: Workload) -> None:
    workload_.groups.append(workload_.groups[0])


def _fraction(workload_: Workload) -> None:
    workload_.groups[0].resources.device_milli = 1500


def _less_than_least(workload_: Workload) -> None:
    workload_.groups[0].min_count, workload_.groups[0].max_count = 3, 2


def _loader(workload_: Workload) -> None:
    workload_.groups[0].program.torch.environment["LD_PRELOAD"] = "evil.so"


def _bad_pool(workload_: Workload) -> None:
    workload_.pools.append("general")


def _no_groups(workload_: Workload) -> None:
    del workload_.groups[:]


def _too_many(workload_: Workload) -> None:
    workload_.groups[0].min_count = 5000


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (_two_groups, "workload.groups"),
        (_fraction, "workload.groups[0].resources.device_milli"),
        (_less_than_least, "workload.groups[0].max_count"),
        (_loader, "workload.groups[0].program"),
        (_bad_pool, "workload.pools[0]"),
        (_no_groups, "workload.groups"),
        (_too_many, "workload.groups"),
    ],
)
async def test_a_wrong_workload_is_refused_naming_the_field(replica: Replica, spoil: Any, field: str) -> None:
    wrong = workload(1)
    spoil(wrong)
    with pytest.raises(InvalidArgument) as refused:
        await replica.submit("job", wrong)
    assert field in refused.value.fields


async def test_what_the_scheduler_says_cannot_be_written_by_callers(replica: Replica) -> None:
    forged = workload(1, state=Workload.RUNNING, generation=7, slices=[workload_pb2.Slice(index=3)])
    created = await replica.submit("job", forged)
    assert (created.state, created.generation, len(created.slices)) == (Workload.PENDING, 0, 0)


async def test_agents_may_not_submit(replica: Replica) -> None:
    stub = SchedulerServiceStub(await replica.channel("agent/n1"))
    with pytest.raises(PermissionDenied):
        await stub.CreateWorkload(
            pb.CreateWorkloadRequest(parent="projects/acme", workload_id="w", workload=workload(1))
        )


async def test_an_update_names_what_it_changes(replica: Replica) -> None:
    created = await replica.submit("web", workload(1, kind=Workload.SERVING))
    request = pb.UpdateWorkloadRequest(workload=created)
    request.workload.etag = ""  # whatever the planner has written meanwhile
    request.workload.priority = 7
    request.update_mask.paths.append("priority")
    changed = await replica.trainer.UpdateWorkload(request)
    assert changed.priority == 7
    assert changed.groups == created.groups
    request.update_mask.paths[:] = ["owner"]
    with pytest.raises(InvalidArgument, match="owner cannot be changed"):
        await replica.trainer.UpdateWorkload(request)


async def test_every_reason_has_a_text() -> None:
    for reason in (
        "ETAG_MISMATCH", "HELLO_REPEATED", "HELLO_REQUIRED", "NODE_IDENTITY_MISMATCH", "POOL_NOT_EMPTY",
        "SESSION_EXPIRED", "SESSION_SUPERSEDED", "WORKLOAD_ENDED", "WORKLOAD_NOT_ENDED", "WORKLOAD_NOT_SERVING",
        "WRITE_CONFLICT",
    ):  # fmt: skip
        assert reason in TEXTS, reason
