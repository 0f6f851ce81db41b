"""Several replicas, and one that is killed: nothing is started twice, and a stale leader writes nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from chassis.clock import SystemClock
from chassis.etcd import EtcdKV
from chassis.kv import KV, Compare, DeletePrefix, Entry, Put, mod, present
from services.scheduler import keys
from services.scheduler.commit import Committer, LeadershipLost
from services.scheduler.ledger import Ledger
from services.scheduler.planner import plan
from services.scheduler.snapshot import Device, Node, Snapshot
from tests.harness.agent import ScriptedAgent, Slice
from tests.harness.etcd import EtcdCluster
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, config, replica_of, start_replica, until, workload
from tests.scheduler.world import node

pytestmark = pytest.mark.integration


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
        await _wipe(etcd)
        yield etcd
        await _wipe(etcd)


async def _wipe(kv: KV) -> None:
    await kv.txn([], [DeletePrefix(keys.ROOT)])


async def _running_gang(replica: Replica, agent: ScriptedAgent, count: int = 2) -> str:
    await replica.create_pool()
    await replica.connect(agent)
    await replica.submit("job", workload(count))
    return (await replica.until_state("job", Workload.RUNNING)).name


async def test_the_whole_life_of_a_gang(store: KV) -> None:
    async with replica_of(store) as replica, ScriptedAgent("pools/general/nodes/n1") as agent:
        name = await _running_gang(replica, agent)
        for each in agent.running(name):
            agent.end(each, Slice.SUCCEEDED)
        await replica.until_state("job", Workload.SUCCEEDED)


async def test_a_scheduler_that_is_killed_and_started_again_leaves_running_gangs_alone(store: KV) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent:
        first = await start_replica(store, config(ttl_s=3.0, lease_ttl_s=10))
        name = await _running_gang(first, agent)
        await agent.disconnect()
        await first.kill()
        async with replica_of(store, config(ttl_s=3.0, lease_ttl_s=10)) as second:
            await second.connect(agent)
            await asyncio.wait_for(second.scheduler.leader.is_leading.wait(), 10)
            beats = agent.beats_acked
            await agent.until(lambda: agent.beats_acked > beats + 5)
            assert len(agent.starts) == 2
            assert not agent.stops
            assert (await second.get("job")).generation == 1
            for each in agent.running(name):
                agent.end(each, Slice.SUCCEEDED)
            await second.until_state("job", Workload.SUCCEEDED)


async def test_work_submitted_while_no_leader_lives_is_placed_by_the_next(store: KV) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as agent, _two(store) as (first, second):
        await first.create_pool()
        leader, other = (first, second) if first.scheduler.leader.is_leading.is_set() else (second, first)
        await other.connect(agent)
        await leader.kill()
        await other.submit("job", workload(1))
        await other.until_state("job", Workload.RUNNING)
        assert other.scheduler.leader.is_leading.is_set()
        assert len(agent.starts) == 1


async def test_any_replica_delivers_what_the_leader_has_placed(store: KV) -> None:
    async with _two(store) as (first, second):
        await first.create_pool()
        async with ScriptedAgent("pools/general/nodes/n1") as one, ScriptedAgent("pools/general/nodes/n2") as two:
            await first.connect(one)
            await second.connect(two)
            await second.submit("job", workload(4))
            running = await first.until_state("job", Workload.RUNNING)
            await two.until(lambda: all(each.store for each in two.running(running.name)))
            assert len(one.starts) == len(two.starts) == 2


async def test_a_stale_leaders_writes_are_refused(store: KV) -> None:
    async with replica_of(store) as replica, ScriptedAgent("pools/general/nodes/n1") as agent:
        await replica.create_pool()
        await replica.connect(agent)
        ledger = replica.scheduler.ledger
        await asyncio.wait_for(replica.scheduler.leader.is_leading.wait(), 10)
        holder = await store.get(keys.LEADER)
        assert holder is not None
        stale = Compare(key=keys.LEADER, field="create_revision", relation="equal", revision=holder.create_revision - 1)
        await replica.submit("job", workload(3))  # does not fit: the real leader leaves it alone
        await replica.until_state("job", Workload.PENDING)
        await until(lambda: ledger.workloads["projects/acme/workloads/job"].proto.message)
        snapshot = ledger.snapshot(1.0)
        wide = {name: _wider(each) for name, each in snapshot.nodes.items()}
        decisions = plan(_with_nodes(snapshot, wide), 0.0).decisions
        assert decisions[0].placement is not None
        committer = Committer(store, ledger, SystemClock())
        with pytest.raises(ExceptionGroup) as refused:
            await committer.commit(decisions, stale, {})
        assert refused.group_contains(LeadershipLost)
        assert not (await store.list(keys.ASSIGNMENTS)).entries
        # The control: without the fence, the same write of the same stale leader goes through.
        await committer.commit(decisions, present(keys.LEADER), {})
        assert (await store.list(keys.ASSIGNMENTS)).entries


async def test_decisions_overtaken_by_events_are_dropped_and_the_others_stand(store: KV) -> None:
    async with replica_of(store) as replica:
        await replica.create_pool()
        for at in range(3):
            await replica.submit(f"w{at}", workload(1))
        await asyncio.wait_for(replica.scheduler.leader.is_leading.wait(), 10)
        ledger = replica.scheduler.ledger
        await until(lambda: sum(each.proto.message != "" for each in ledger.workloads.values()) == 3)
        async with ScriptedAgent("pools/general/nodes/n1", 8) as agent:
            snapshot = ledger.snapshot(1.0)
            await _touch(store, await _entry(store, "w1"))
            decisions = plan(_with_nodes(snapshot, {agent.node: _some_node(agent.node)}), 0.0).decisions
            holder = await store.get(keys.LEADER)
            assert holder is not None
            guard = Compare(key=keys.LEADER, field="create_revision", relation="equal", revision=holder.create_revision)
            # The ledger may have seen the touch already: plan on what it was before.
            written = [each for each in decisions if each.placement]
            committer = Committer(store, _Frozen(ledger, await _entry(store, "w1")), SystemClock())  # type: ignore[arg-type]
            _, overtaken = await committer.commit(written, guard, {})
            assert overtaken == 1
            placed = {entry.key.split("/")[-2] for entry in (await store.list(keys.ASSIGNMENTS)).entries}
            assert placed == {"w0", "w2"}


class _Frozen:
    """A ledger that has not heard of the last write of one workload."""

    def __init__(self, real: Ledger, touched: Entry) -> None:
        name = "projects/acme/workloads/w1"
        self.workloads = dict(real.workloads)
        self.workloads[name] = replace(real.workloads[name], mod_revision=touched.mod_revision - 1)

    def assignment(self, *_: object) -> None:
        return None


async def _entry(store: KV, workload_id: str) -> Entry:
    entry = await store.get(f"{keys.WORKLOADS}acme/{workload_id}")
    assert entry is not None
    return entry


async def _touch(store: KV, entry: Entry) -> None:
    await store.txn([mod(entry.key, entry.mod_revision)], [Put(entry.key, entry.value)])


def _some_node(name: str) -> Node:
    return node(name.rpartition("/")[2], pool="pools/general")


def _wider(each: Node) -> Node:
    return replace(each, devices=tuple(Device(index=at) for at in range(8)))


def _with_nodes(snapshot: Snapshot, nodes: Mapping[str, Node]) -> Snapshot:
    return replace(snapshot, nodes=nodes)


@asynccontextmanager
async def _two(store: KV) -> AsyncIterator[tuple[Replica, Replica]]:
    async with replica_of(store) as first, replica_of(store) as second:
        await until(lambda: first.scheduler.leader.is_leading.is_set() or second.scheduler.leader.is_leading.is_set())
        yield first, second
