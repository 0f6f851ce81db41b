"""Who may open a session, and what becomes of it."""

import pytest

from lepton.errors import Aborted, FailedPrecondition, InvalidArgument, PermissionDenied
from services.scheduler import keys
from tests.harness.agent import ScriptedAgent
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, config, replica_of, until, workload

pytestmark = pytest.mark.integration


async def test_a_node_of_an_unknown_pool_is_refused(replica: Replica) -> None:
    async with ScriptedAgent("pools/nowhere/nodes/n1") as agent:
        with pytest.raises(FailedPrecondition, match="POOL_NOT_FOUND"):
            await replica.connect(agent)


async def test_a_certificate_of_another_node_is_refused(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        with pytest.raises(PermissionDenied, match="NODE_IDENTITY_MISMATCH"):
            await agent.connect(await replica.channel("agent/n2"))


async def test_services_may_not_pose_as_nodes(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/trainer") as agent:
        with pytest.raises(PermissionDenied):
            await agent.connect(await replica.channel("service/trainer"))


async def test_a_malformed_node_name_is_refused(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/../n1") as agent:
        with pytest.raises(InvalidArgument, match=r"hello\.node\.name"):
            await agent.connect(await replica.channel("agent/n1"))


async def test_node_keys_lie_under_few_leases(replica: Replica, kv: MemoryKV) -> None:
    agents = [ScriptedAgent(f"pools/general/nodes/n{at}") for at in range(8)]
    for agent in agents:
        await replica.connect(agent)
    entries = (await kv.list(keys.NODES)).entries
    assert len(entries) == 8
    assert len({entry.lease for entry in entries}) <= 2
    assert all(entry.lease for entry in entries)
    for agent in agents:
        await agent.disconnect()


async def test_a_second_stream_of_a_node_ends_the_first(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as old, ScriptedAgent("pools/general/nodes/n1") as new:
        await replica.connect(old)
        await replica.connect(new)
        await old.until(lambda: old.error is not None)
        assert isinstance(old.error, Aborted)
        assert old.error.reason == "SESSION_SUPERSEDED"
        with pytest.raises(Aborted, match="SESSION_SUPERSEDED"):  # it may not come back over the newer one
            await replica.connect(old)
        assert new.error is None


async def test_a_session_goes_on_at_another_replica_and_the_first_lets_go(kv: MemoryKV) -> None:
    async with replica_of(kv) as first, replica_of(kv) as second:
        await first.create_pool()
        async with ScriptedAgent("pools/general/nodes/n1") as agent:
            await first.connect(agent)
            await first.submit("job", workload(1))
            await first.until_state("job", Workload.RUNNING)
            session = agent.session_id
            await agent.disconnect()
            await second.connect(agent)
            assert agent.session_id == session
            await until(lambda: first.scheduler.sessions.get(agent.node) is None)
            beats = agent.beats_acked
            await agent.until(lambda: agent.beats_acked > beats + 15)  # longer than the first would have waited
            assert agent.starts == [("projects/acme/workloads/job", 1, 0)]
            assert (await second.get("job")).generation == 1


async def test_a_lost_lease_is_replaced_and_its_nodes_put_back(kv: MemoryKV) -> None:
    async with replica_of(kv, config(ttl_s=2.0)) as replica:
        await replica.create_pool()
        async with ScriptedAgent("pools/general/nodes/n1") as agent:
            await replica.connect(agent)
            await replica.submit("job", workload(1))
            await replica.until_state("job", Workload.RUNNING)
            entry = (await kv.list(keys.NODES)).entries[0]
            kv.end_lease(entry.lease)
            nodes = replica.scheduler.ledger.nodes
            await until(lambda: agent.node in nodes and nodes[agent.node].entry.lease != entry.lease)
            beats = agent.beats_acked
            await agent.until(lambda: agent.beats_acked > beats + 2)
            assert agent.starts == [("projects/acme/workloads/job", 1, 0)]


async def test_heartbeats_are_not_acknowledged_while_the_lease_may_be_lost(replica: Replica, kv: MemoryKV) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await agent.until(lambda: agent.beats_acked > 2)
        session = replica.scheduler.sessions.get(agent.node)
        assert session is not None
        session.acked_at = float("-inf")
        assert replica.scheduler.sessions.heartbeat(session)
        kv.stall((await kv.list(keys.NODES)).entries[0].lease)
        assert session.lease is not None
        session.lease.lost.set()
        session.acked_at = float("-inf")
        assert not replica.scheduler.sessions.heartbeat(session)


async def test_answers_to_heartbeats_say_what_time_it_is(replica: Replica) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.connect(agent)
        await agent.until(lambda: agent.beats_acked >= 3)
        assert agent.skew.ahead_s == pytest.approx(0, abs=5)
