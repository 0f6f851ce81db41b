"""From an empty fleet to a gang that has succeeded, over real streams."""

from services.scheduler import keys
from tests.harness.agent import ScriptedAgent, Slice
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, workload


async def test_a_gang_is_placed_started_and_succeeds(replica: Replica, kv: MemoryKV) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as one, ScriptedAgent("pools/general/nodes/n2") as two:
        await replica.connect(one)
        await replica.connect(two)
        created = await replica.submit("digits", workload(4))
        assert (created.state, created.generation) == (Workload.PENDING, 0)
        running = await replica.until_state("digits", Workload.RUNNING)
        assert [each.index for each in running.slices] == [0, 1, 2, 3]
        assert [each.node for each in running.slices] == [one.node, one.node, two.node, two.node]
        assert [list(each.devices) for each in running.slices] == [[0], [1], [0], [1]]
        name = running.name
        await two.until(lambda: all(each.store for each in two.running(name)))
        assert {each.store for each in two.running(name)} == {one.running(name)[0].slice.endpoints["store"]}
        assert two.running(name)[0].gang_nodes == [one.node, two.node]
        for agent in (one, two):
            for each in agent.running(name):
                agent.end(each, Slice.SUCCEEDED)
        done = await replica.until_state("digits", Workload.SUCCEEDED)
        assert done.HasField("start_time")
        assert done.HasField("end_time")
        assert not (await kv.list(keys.ASSIGNMENTS)).entries
        assert not (await kv.list(keys.STATUSES)).entries
