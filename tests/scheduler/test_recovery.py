"""Failures and losses: what is restarted, when, and what is left alone."""

import asyncio
import time

import pytest

from tests.harness.agent import ScriptedAgent, Slice
from tests.harness.scheduling import TTL_S, Replica, Workload, pb, workload

pytestmark = pytest.mark.integration


async def test_a_failed_slice_restarts_the_whole_gang_under_a_new_generation(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(2, max_restarts=1))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        agent.end(agent.running(name)[1], Slice.FAILED, message="out of memory", exit_code=137)
        await agent.until(lambda: (name, 2, 0) in agent.starts and (name, 2, 1) in agent.starts)
        again = await replica.until_state("job", Workload.RUNNING)
        assert (again.generation, again.restarts) == (2, 1)
        assert [stop.generation for stop in agent.stops] == [1]
        agent.end(agent.running(name)[0], Slice.FAILED, message="bad data", exit_code=1)
        failed = await replica.until_state("job", Workload.FAILED)
        assert "slice 0" in failed.message
        assert "exit code 1: bad data" in failed.message


async def test_a_lost_node_returns_its_gang_to_the_queue_only_after_the_fence(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as one, ScriptedAgent("pools/general/nodes/n2") as two:
        await replica.connect(one)
        await replica.connect(two)
        await replica.submit("job", workload(2, max_restarts=0))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        holder, other = (one, two) if one.running(name) else (two, one)
        died_at = time.monotonic()
        await holder.die()
        await other.until(lambda: (name, 2, 0) in other.starts and (name, 2, 1) in other.starts)
        assert time.monotonic() - died_at >= 2 * TTL_S
        again = await replica.until_state("job", Workload.RUNNING)
        assert (again.generation, again.restarts) == (2, 0)  # a lost node is not the workload's failure


async def test_survivors_that_fail_with_a_lost_node_do_not_use_up_restarts(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1", 1) as one, ScriptedAgent("pools/general/nodes/n2", 1) as two:
        await replica.connect(one)
        await replica.connect(two)
        await replica.submit("job", workload(2, max_restarts=0))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        await one.die()
        two.end(two.running(name)[0], Slice.FAILED, message="connection reset by peer", exit_code=1)
        async with ScriptedAgent("pools/general/nodes/n3", 1) as three:
            await replica.connect(three)
            await three.until(lambda: three.running(name))
            again = await replica.until_state("job", Workload.RUNNING)
            assert (again.generation, again.restarts) == (2, 0)


async def test_a_node_that_says_goodbye_is_replaced_at_once(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as one, ScriptedAgent("pools/general/nodes/n2") as two:
        await replica.connect(one)
        await replica.submit("job", workload(2, max_restarts=0))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        await replica.connect(two)
        left_at = time.monotonic()
        await one.leave()
        await two.until(lambda: len(two.running(name)) == 2)
        assert time.monotonic() - left_at < TTL_S
        assert one.node not in replica.scheduler.ledger.nodes


async def test_an_agent_that_starts_afresh_frees_what_its_former_life_ran_at_once(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(2, max_restarts=0))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        first = agent.session_id
        await agent.die()
        began = time.monotonic()
        await replica.connect(agent)
        await agent.until(lambda: len(agent.running(name)) == 2)
        assert agent.session_id != first
        assert agent.running(name)[0].generation == 2
        assert time.monotonic() - began < TTL_S


async def test_a_connection_that_breaks_costs_nothing(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(2))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        session = agent.session_id
        await agent.disconnect()
        await replica.connect(agent)
        assert agent.session_id == session
        assert len(agent.starts) == 2
        assert not agent.stops
        assert [each.generation for each in agent.running(name)] == [1, 1]


async def test_a_report_made_while_disconnected_arrives_with_the_hello(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(1))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        await agent.disconnect()
        agent.end(agent.running(name)[0], Slice.SUCCEEDED)
        await replica.connect(agent)
        await replica.until_state("job", Workload.SUCCEEDED)
        assert len(agent.starts) == 1


async def test_a_report_of_a_stale_generation_is_refused(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(1, max_restarts=1))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        agent.end(agent.running(name)[0], Slice.FAILED, exit_code=1)
        await agent.until(lambda: (name, 2, 0) in agent.starts)
        await replica.until_state("job", Workload.RUNNING)
        agent.say(name, 1, Slice(index=0, state=Slice.SUCCEEDED))
        await agent.until(lambda: [stop for stop in agent.stops if stop.reason == "stale"])
        assert agent.stops[-1].generation == 1
        assert (await replica.get("job")).state == Workload.RUNNING
        # The control: the same report about the present generation is accepted.
        agent.say(name, 2, Slice(index=0, state=Slice.SUCCEEDED))
        await replica.until_state("job", Workload.SUCCEEDED)


async def test_another_nodes_slice_cannot_be_reported(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as one, ScriptedAgent("pools/general/nodes/n2") as two:
        await replica.connect(one)
        await replica.submit("job", workload(1))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        await replica.connect(two)
        two.say(name, 1, Slice(index=0, state=Slice.FAILED))
        await two.until(lambda: two.stops)
        assert two.stops[0].reason == "stale"
        assert (await replica.get("job")).state == Workload.RUNNING


async def test_cancelling_stops_the_slices_and_then_says_so(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(2))
        name = (await replica.until_state("job", Workload.RUNNING)).name
        answer = await replica.trainer.CancelWorkload(pb.CancelWorkloadRequest(name=name, grace_s=7))
        assert answer.state == Workload.CANCELLING
        done = await replica.until_state("job", Workload.CANCELLED)
        assert agent.stops[0].grace_s == 7
        assert sorted(agent.stops[0].slices) == [0, 1]
        assert [each.state for each in done.slices] == [Slice.STOPPED, Slice.STOPPED]
        again = await replica.trainer.CancelWorkload(pb.CancelWorkloadRequest(name=name))
        assert again.state == Workload.CANCELLED
        await replica.trainer.DeleteWorkload(pb.DeleteWorkloadRequest(name=name))


async def test_a_waiting_workload_can_be_cancelled(replica: Replica) -> None:
    created = await replica.submit("job", workload(1))
    await replica.trainer.CancelWorkload(pb.CancelWorkloadRequest(name=created.name))
    await replica.until_state("job", Workload.CANCELLED)


async def test_a_node_whose_heartbeats_stop_is_removed_and_told_so(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        agent.is_beating = False
        stopped_at = time.monotonic()
        await agent.until(lambda: agent.error is not None)
        assert agent.error is not None
        assert agent.error.reason == "SESSION_EXPIRED"
        assert time.monotonic() - stopped_at >= TTL_S - agent.heartbeat_s
        await asyncio.wait_for(_until_gone(replica, agent.node), 5)


async def _until_gone(replica: Replica, node: str) -> None:
    request = pb.WatchNodesRequest(parent="pools/-")
    async for change in replica.admin.WatchNodes(request):
        if change.event == pb.WatchNodesResponse.BOOKMARK and node not in replica.scheduler.ledger.nodes:
            return
        if change.event == pb.WatchNodesResponse.DELETED and change.node.name == node:
            return
