"""Independent slices: a deployment never loses its healthy replicas."""

import pytest

from lepton.errors import LeptonError
from lepton.scheduler.v1 import resources_pb2
from tests.harness.agent import ScriptedAgent, Slice
from tests.harness.scheduling import Replica, Workload, pb, program, until, workload

pytestmark = pytest.mark.integration


def _update(name: str, workload_: Workload) -> pb.UpdateWorkloadRequest:
    return pb.UpdateWorkloadRequest(workload=Workload(name=name, groups=workload_.groups))


async def _serving(replica: Replica, agent: ScriptedAgent, count: int, max_restarts: int = 0) -> str:
    agent.on_start = lambda _: Slice.READY
    await replica.connect(agent)
    await replica.submit("web", workload(count, kind=Workload.SERVING, device_milli=250, max_restarts=max_restarts))
    return (await replica.until_state("web", Workload.RUNNING)).name


async def test_a_failed_replica_is_replaced_and_the_others_stay(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        name = await _serving(replica, agent, 3, max_restarts=5)
        agent.end(agent.running(name)[1], Slice.FAILED, message="segmentation fault", exit_code=-11)
        await agent.until(lambda: (name, 2, 1) in agent.starts)
        healed = await replica.until_state("web", Workload.RUNNING)
        assert (healed.generation, healed.restarts) == (2, 1)
        assert agent.starts == [(name, 1, 0), (name, 1, 1), (name, 1, 2), (name, 2, 1)]
        assert sorted(agent.adopted) == [(name, 2, 0), (name, 2, 2)]
        assert not agent.stops or not agent.stops[0].slices


async def test_a_kept_replica_stays_ready_in_the_new_generation_from_the_start(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        name = await _serving(replica, agent, 2, max_restarts=5)
        agent.report(agent.running(name)[0], Slice.READY, endpoints={"grpc": "127.0.0.1:1"})
        await until(lambda: replica.scheduler.ledger.workloads[name].proto.slices[0].endpoints)
        agent.end(agent.running(name)[1], Slice.FAILED)
        seen = []
        async for change in replica.trainer.WatchWorkloads(pb.WatchWorkloadsRequest(parent="projects/acme")):
            if change.workload.name == name:
                seen.append(change.workload)
                if change.workload.generation == 2 and change.workload.state == Workload.RUNNING:
                    break
        assert all(each.slices[0].state == Slice.READY for each in seen)
        assert all(each.slices[0].endpoints["grpc"] == "127.0.0.1:1" for each in seen)


async def test_growing_and_shrinking_touch_only_what_changes(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        name = await _serving(replica, agent, 1)
        await replica.trainer.UpdateWorkload(_update(name, workload(3, kind=Workload.SERVING, device_milli=250)))
        await agent.until(lambda: len(agent.running(name)) == 3)
        assert agent.starts == [(name, 1, 0), (name, 2, 1), (name, 2, 2)]
        await replica.trainer.UpdateWorkload(_update(name, workload(1, kind=Workload.SERVING, device_milli=250)))
        await agent.until(lambda: len(agent.running(name)) == 1)
        assert [each.slice.index for each in agent.running(name)] == [0]
        assert len(agent.starts) == 3
        await until(lambda: len(replica.scheduler.ledger.assignments[name]) == 1)
        node = await replica.admin.GetNode(pb.GetNodeRequest(name=agent.node))
        assert node.allocated.device_milli == 250


async def test_a_changed_program_replaces_its_slices(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        name = await _serving(replica, agent, 2)
        other = workload(2, kind=Workload.SERVING, device_milli=250, runs=program("serve", "v2"))
        await replica.trainer.UpdateWorkload(_update(name, other))
        await agent.until(
            lambda: [list(each.program.process.argv) for each in agent.running(name)] == [["serve", "v2"]] * 2
        )
        await replica.until_state("web", Workload.RUNNING)


async def test_a_changed_program_is_exchanged_even_when_there_is_no_room_beside(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1", 1) as agent:
        agent.on_start = lambda _: Slice.READY
        await replica.connect(agent)
        await replica.submit("web", workload(1, kind=Workload.SERVING, device_milli=1000))
        name = (await replica.until_state("web", Workload.RUNNING)).name
        await replica.trainer.UpdateWorkload(_update(name, workload(1, kind=Workload.SERVING, runs=program("v2"))))
        await agent.until(lambda: [list(each.program.process.argv) for each in agent.running(name)] == [["v2"]])


async def test_replicas_of_a_lost_node_are_replaced_elsewhere_and_the_rest_stays(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1", 1) as one, ScriptedAgent("pools/general/nodes/n2", 1) as two:
        one.on_start = two.on_start = lambda _: Slice.READY
        await replica.connect(one)
        await replica.connect(two)
        await replica.submit("web", workload(2, kind=Workload.SERVING, device_milli=500, cpu_milli=5000))
        name = (await replica.until_state("web", Workload.RUNNING)).name
        assert one.running(name)
        assert two.running(name)
        await one.die()
        async with ScriptedAgent("pools/general/nodes/n3", 1) as three:
            three.on_start = lambda _: Slice.READY
            await replica.connect(three)
            await three.until(lambda: three.running(name))
            healed = await replica.until_state("web", Workload.RUNNING)
            assert healed.restarts == 0
            assert len(two.starts) == 1
            assert not two.stops


async def test_without_room_for_a_replacement_the_rest_serves_on(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1", 1) as one, ScriptedAgent("pools/general/nodes/n2", 1) as two:
        one.on_start = two.on_start = lambda _: Slice.READY
        await replica.connect(one)
        await replica.connect(two)
        await replica.submit("web", workload(2, kind=Workload.SERVING))
        name = (await replica.until_state("web", Workload.RUNNING)).name
        await one.die()
        await until(
            lambda: (
                (record := replica.scheduler.ledger.workloads[name].proto).pending_reason
                == Workload.WAITING_FOR_CAPACITY
                and "room for 0 of 1" in record.message
            )
        )
        assert (await replica.get("web")).state == Workload.ASSIGNED
        assert len(two.running(name)) == 1


async def test_a_batch_keeps_what_has_succeeded_and_repeats_what_failed(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("batch", workload(2, kind=Workload.BATCH, max_restarts=1))
        name = (await replica.until_state("batch", Workload.RUNNING)).name
        first, second = agent.running(name)
        agent.end(first, Slice.SUCCEEDED)
        agent.end(second, Slice.FAILED)
        await agent.until(lambda: (name, 2, 1) in agent.starts)
        agent.end(agent.running(name)[0], Slice.SUCCEEDED)
        await replica.until_state("batch", Workload.SUCCEEDED)
        assert agent.starts == [(name, 1, 0), (name, 1, 1), (name, 2, 1)]


async def test_restarts_that_are_used_up_fail_the_deployment(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        name = await _serving(replica, agent, 2, max_restarts=0)
        agent.end(agent.running(name)[0], Slice.FAILED, message="no such model")
        failed = await replica.until_state("web", Workload.FAILED)
        assert "no such model" in failed.message
        assert not agent.running(name)


async def test_only_serving_workloads_change_their_groups(replica: Replica) -> None:
    created = await replica.submit("job", workload(1))
    error = await _refused(replica, _update(created.name, workload(2)))
    assert error == "WORKLOAD_NOT_SERVING"
    bad = workload(2, kind=Workload.SERVING)
    bad.groups[0].resources.CopyFrom(resources_pb2.Resources(device_milli=1500))
    assert await _refused(replica, _update(created.name, bad)) in ("WORKLOAD_NOT_SERVING", "INVALID_FIELD")


async def _refused(replica: Replica, request: pb.UpdateWorkloadRequest) -> str:
    try:
        await replica.trainer.UpdateWorkload(request)
    except LeptonError as error:
        return error.reason
    return ""
