"""Workloads in queues, from submission to the first slice: over real streams, and a real etcd."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from chassis.etcd import EtcdKV
from chassis.kv import KV, DeletePrefix
from lepton.scheduler.v1 import planning_service_pb2 as planning
from lepton.scheduler.v1 import queue_service_pb2 as pb
from lepton.scheduler.v1.node_pb2 import Node, Taint
from lepton.scheduler.v1.planning_service_pb2_grpc import PlanningServiceStub
from lepton.scheduler.v1.queue_pb2 import FloatingResource, Queue, Quota
from lepton.scheduler.v1.queue_service_pb2_grpc import QueueServiceStub
from lepton.scheduler.v1.scheduler_service_pb2 import CancelWorkloadRequest, UpdateNodeRequest, WatchWorkloadsRequest
from lepton.scheduler.v1.workload_pb2 import Toleration
from services.scheduler import keys
from tests.harness.agent import ScriptedAgent, Slice
from tests.harness.etcd import EtcdCluster
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, replica_of, workload

NODE = "pools/general/nodes/n1"


@dataclass(eq=False)
class Site:
    """A scheduler with one node of four devices, its operator, and what a project asks it."""

    replica: Replica
    agent: ScriptedAgent
    queues: Any
    planning: Any

    async def queue(self, queue_id: str, devices: int, **fields: Any) -> None:
        quota = Quota(resource="device_milli", nominal=1000 * devices)
        queue = Queue(quotas=[quota], projects=["projects/acme"], **fields)
        await self.queues.CreateQueue(pb.CreateQueueRequest(queue_id=queue_id, queue=queue))

    async def change(self, queue_id: str, *paths: str, **fields: Any) -> Queue:
        request = pb.UpdateQueueRequest(queue=Queue(name=f"queues/{queue_id}", **fields))
        request.update_mask.paths.extend(paths)
        answer: Queue = await self.queues.UpdateQueue(request)
        return answer

    async def until(self, workload_id: str, reason: int) -> Workload:
        """Follow a workload until it waits for this reason."""
        async with asyncio.timeout(30):
            async for change in self.replica.trainer.WatchWorkloads(WatchWorkloadsRequest(parent="projects/acme")):
                seen: Workload = change.workload
                if seen.name.endswith(f"/{workload_id}") and seen.pending_reason == reason:
                    return seen
        raise AssertionError("the watch ended")

    async def running(self, workload_id: str) -> Workload:
        return await self.replica.until_state(workload_id, Workload.RUNNING, 30.0)

    async def why(self, name: str) -> planning.ExplainWorkloadResponse:
        answer: planning.ExplainWorkloadResponse = await self.planning.ExplainWorkload(
            planning.ExplainWorkloadRequest(name=name)
        )
        return answer


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.integration)])
def cluster(request: pytest.FixtureRequest) -> EtcdCluster | None:
    return request.getfixturevalue("etcd") if request.param == "etcd" else None


@pytest.fixture
async def store(cluster: EtcdCluster | None) -> AsyncIterator[KV]:
    if cluster is None:
        async with MemoryKV() as memory:
            yield memory
        return
    async with EtcdKV(cluster.endpoints) as etcd:
        await etcd.txn([], [DeletePrefix(keys.ROOT)])
        yield etcd
        await etcd.txn([], [DeletePrefix(keys.ROOT)])


@pytest.fixture
async def site(store: KV) -> AsyncIterator[Site]:
    async with replica_of(store) as replica, ScriptedAgent(NODE, devices=4) as agent:
        await replica.create_pool()
        await replica.connect(agent)
        operator = await replica.stack.enter_async_context(replica.mesh.client("users/root"))
        yield Site(replica, agent, QueueServiceStub(operator), PlanningServiceStub(operator))


async def test_a_quota_holds_a_project_back_until_it_is_raised(site: Site) -> None:
    await site.queue("vision", 2)
    await site.replica.submit("first", workload(2))
    await site.running("first")
    waiting = await site.replica.submit("second", workload(1))
    waiting = await site.until("second", Workload.WAITING_FOR_QUOTA)
    assert "queues/vision can give it 0 of 1 device" in waiting.message
    told = await site.why(waiting.name)
    assert told.reason == Workload.WAITING_FOR_QUOTA
    assert [(each.queue, each.resource, each.needed, each.available) for each in told.gaps] == [
        ("queues/vision", "device_milli", 1000, 0)
    ]
    assert list(told.blockers) == ["projects/acme/workloads/first"]
    quotas = [Quota(resource="device_milli", nominal=3000)]
    changed = await site.change("vision", "quotas", quotas=quotas)
    assert changed.quotas[0].nominal == 3000
    await site.running("second")
    shown = await site.queues.GetQueue(pb.GetQueueRequest(name="queues/vision"))
    assert (shown.pending_count, shown.admitted_count, shown.use[0].used) == (0, 2, 3000)


async def test_more_than_a_queue_can_ever_give_is_told_at_once(site: Site) -> None:
    await site.queue("vision", 2)
    asked = await site.replica.submit("big", workload(3))
    waiting = await site.until("big", Workload.EXCEEDS_MAX_QUOTA)
    assert "queues/vision can give it 2 of 3 devices" in waiting.message
    await site.change("vision", "quotas", quotas=[Quota(resource="device_milli", nominal=4000)])
    assert (await site.running("big")).name == asked.name


async def test_one_project_takes_no_more_than_its_limit(site: Site) -> None:
    limit = Quota(resource="device_milli", nominal=1000)
    await site.queue("vision", 4, project_limits=[limit])
    await site.replica.submit("first", workload(1))
    await site.running("first")
    await site.replica.submit("second", workload(1))
    waiting = await site.until("second", Workload.WAITING_FOR_QUOTA)
    assert "queues/vision can give projects/acme 0 of 1 device" in waiting.message
    await site.change("vision", "project_limits", project_limits=[])
    await site.running("second")


async def test_a_held_queue_admits_nothing_and_a_drained_one_stops_what_runs(site: Site) -> None:
    await site.queue("vision", 4)
    await site.replica.submit("first", workload(1))
    first = await site.running("first")
    await site.change("vision", "stop_policy", stop_policy=Queue.HOLD)
    await site.replica.submit("second", workload(1))
    await site.until("second", Workload.ON_HOLD)
    assert (await site.replica.get("first")).state == Workload.RUNNING
    assert not site.agent.stops
    await site.change("vision", "stop_policy", stop_policy=Queue.HOLD_AND_DRAIN)
    drained = await site.until("first", Workload.ON_HOLD)
    assert (drained.state, drained.restarts) == (Workload.PENDING, 0)
    assert [(each.workload, each.generation) for each in site.agent.stops] == [(first.name, 1)]
    assert site.agent.stops[0].grace_s > 0
    await site.change("vision", "stop_policy")
    assert (await site.running("first")).generation == 2
    await site.running("second")


async def test_a_floating_resource_is_held_until_its_holder_has_ended(site: Site) -> None:
    create = pb.CreateFloatingResourceRequest(
        floating_resource_id="licences", floating_resource=FloatingResource(capacity=1)
    )
    licences = await site.queues.CreateFloatingResource(create)
    holds = {licences.name: 1}
    await site.replica.submit("first", workload(1, floating_resources=holds))
    first = await site.running("first")
    await site.replica.submit("second", workload(1, floating_resources=holds))
    waiting = await site.until("second", Workload.WAITING_FOR_FLOATING_RESOURCE)
    told = await site.why(waiting.name)
    assert [(each.resource, each.needed, each.available) for each in told.gaps] == [(licences.name, 1, 0)]
    for each in site.agent.running(first.name):
        site.agent.end(each, Slice.SUCCEEDED)
    await site.running("second")
    used = await site.queues.GetFloatingResource(pb.GetFloatingResourceRequest(name=licences.name))
    assert used.allocated == 1


async def test_a_tainted_node_loses_what_does_not_tolerate_the_taint(site: Site) -> None:
    await site.replica.submit("guest", workload(1))
    await site.replica.submit("host", workload(1, tolerations=[Toleration(key="repair")]))
    await site.running("guest")
    await site.running("host")
    taint = Taint(key="repair", effect=Taint.NO_EXECUTE)
    await site.replica.admin.UpdateNode(UpdateNodeRequest(node=Node(name=NODE, taints=[taint])))
    async with asyncio.timeout(30):
        async for change in site.replica.trainer.WatchWorkloads(WatchWorkloadsRequest(parent="projects/acme")):
            if change.workload.name.endswith("/guest") and change.workload.state == Workload.PENDING:
                break
    assert (await site.replica.get("host")).state == Workload.RUNNING
    back = UpdateNodeRequest(node=Node(name=NODE))
    back.update_mask.paths.append("taints")
    await site.replica.admin.UpdateNode(back)
    assert (await site.running("guest")).generation == 2
    assert (await site.replica.get("host")).generation == 1


async def test_what_is_cancelled_gives_its_quota_back(site: Site) -> None:
    await site.queue("vision", 2)
    first = await site.replica.submit("first", workload(2))
    await site.running("first")
    await site.replica.submit("second", workload(2))
    await site.until("second", Workload.WAITING_FOR_QUOTA)
    await site.replica.trainer.CancelWorkload(CancelWorkloadRequest(name=first.name))
    await site.running("second")
