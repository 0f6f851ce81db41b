"""An agent whose settings name no pool."""

from pathlib import Path

import pytest

from chassis.clock import SystemClock
from chassis.config import load
from lepton.errors import InvalidArgument
from lepton.scheduler.v1 import program_pb2
from lepton.scheduler.v1.node_pb2 import Taint
from lepton.scheduler.v1.workload_pb2 import Slice
from services.agent.config import AgentConfig
from services.agent.inventory import TreeMeter, UsageMeter
from services.agent.node import describe, usage_meter
from tests.harness.agents import agent_world
from tests.harness.wait import until

WORKLOAD = "projects/acme/workloads/w"
SETTINGS = """
node = "n1"
state_dir = "{folder}"
artifacts = "file:///nowhere"
{more}

[labels]
"topology.lepton.dev/rack" = "r7"

[[taints]]
key = "lepton.dev/dedicated"
value = "research"
effect = "NO_EXECUTE"
"""


def settings(folder: Path, more: str = "") -> AgentConfig:
    path = folder / "agent.toml"
    path.write_text(SETTINGS.format(folder=folder, more=more))
    return load(AgentConfig, path)


async def test_the_pool_is_left_open_and_labels_and_taints_are_declared(tmp_path: Path) -> None:
    node = await describe(settings(tmp_path, "network_mbps = 25000\nstorage_bytes = 7"))
    assert node.name == "pools/-/nodes/n1"
    assert node.labels["topology.lepton.dev/rack"] == "r7"
    assert node.labels["lepton.dev/hostname"]
    assert list(node.taints) == [Taint(key="lepton.dev/dedicated", value="research", effect=Taint.NO_EXECUTE)]
    assert (node.capacity.network_mbps, node.capacity.storage_bytes) == (25000, 7)
    assert (await describe(settings(tmp_path, 'pool = "fast"'))).name == "pools/fast/nodes/n1"


async def test_a_pool_or_node_that_is_no_id_is_refused(tmp_path: Path) -> None:
    for more in ('pool = "no pool"', 'pool = "../x"'):
        with pytest.raises(InvalidArgument):
            await describe(settings(tmp_path, more))


def test_an_agent_with_a_part_of_a_machine_measures_its_own_part(tmp_path: Path) -> None:
    assert isinstance(usage_meter(settings(tmp_path), SystemClock()), UsageMeter)
    assert isinstance(usage_meter(settings(tmp_path, "cpu_milli = 500"), SystemClock()), TreeMeter)


def test_the_tree_meter_counts_processor_time_between_measurements() -> None:
    now_s = 0.0
    meter = TreeMeter(lambda: now_s)
    first = meter()
    assert first.cpu_milli == 0
    assert first.memory_bytes > 1 << 20
    assert meter() is first  # not measured again so soon
    sum(at * at for at in range(3_000_000))
    now_s = 10.0
    used = meter().cpu_milli
    assert 1 <= used <= 10_000


@pytest.mark.integration
async def test_an_agent_takes_the_name_that_it_is_given(tmp_path: Path) -> None:
    async with agent_world(tmp_path) as world:
        name = "pools/fast/nodes/n1"
        world.scheduler.renames = {"pools/-/nodes/n1": name}
        await world.start("n1", pool="-")
        await until(lambda: name in world.scheduler.connected, deadline_s=60)
        program = program_pb2.Program(process=program_pb2.ProcessProgram(argv=["sleep", "1000"]))
        world.scheduler.start(WORKLOAD, {name: [0]}, program)
        await world.scheduler.reported(WORKLOAD, 0, Slice.RUNNING)
        assert world.scheduler.hellos[-1].node.name == "pools/-/nodes/n1"
        await world.scheduler_peer.down()
        await world.scheduler_peer.up()
        await until(lambda: len(world.scheduler.hellos) > 1, deadline_s=60)
        again = world.scheduler.hellos[-1]
        assert (again.node.name, len(again.slices)) == (name, 1)  # what ran goes on under the name it was given
