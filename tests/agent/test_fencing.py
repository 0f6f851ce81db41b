"""A node that may count as lost kills what it runs before anybody else may start it; without the fence it would not."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator

import psutil
import pytest

from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.harness.agents import AgentWorld, agent_world
from tests.harness.wait import until

Slice = workload_pb2.Slice
N1 = "pools/general/nodes/n1"
WORKLOAD = "projects/acme/workloads/fenced"
TTL_S = 2.0
UNFENCED = ("-m", "tests.harness.unfenced_agent")

pytestmark = pytest.mark.integration


@pytest.fixture
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path_factory.mktemp("fencing"), ttl_s=TTL_S) as world:
        yield world


async def run_both(world: AgentWorld, *arguments: str) -> list[psutil.Process]:
    """An agent that runs a rank and a process; the two processes."""
    agent = await world.start("n1", arguments=arguments)
    await world.scheduler.joined(N1)
    deaf = program_pb2.TorchProgram(module="tests.harness.ranks.rank", argv=["sleep"])
    world.scheduler.start(WORKLOAD, {N1: (0,)}, program_pb2.Program(torch=deaf))
    command = program_pb2.ProcessProgram(argv=[sys.executable, "-c", "import time; time.sleep(600)", "fenced"])
    world.scheduler.start(f"{WORKLOAD}-too", {N1: (0,)}, program_pb2.Program(process=command))
    await world.scheduler.reported(WORKLOAD, 0, Slice.RUNNING, deadline_s=60)
    await world.scheduler.reported(f"{WORKLOAD}-too", 0, Slice.RUNNING)

    def working() -> list[psutil.Process]:
        return [each for each in agent.descendants() if each.cwd().startswith(f"{agent.state}/work/")]

    await until(lambda: len(working()) == 2)  # the rank and the process
    return working()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def test_a_node_whose_heartbeats_are_not_acknowledged_kills_its_slices_in_time(world: AgentWorld) -> None:
    processes = await run_both(world)
    world.scheduler.acknowledges = False
    began = time.monotonic()
    await until(lambda: not alive(processes), deadline_s=TTL_S + 3)
    assert time.monotonic() - began < TTL_S + 1  # loose for a busy machine; the fence itself is due at 0.8 of it
    await world.scheduler.until(lambda: len(world.scheduler.hellos) > 1)
    assert world.scheduler.hellos[-1].node.session_id == ""
    assert not world.scheduler.hellos[-1].slices


@pytest.mark.slow
async def test_a_node_whose_scheduler_is_gone_kills_its_slices_and_joins_afresh(world: AgentWorld) -> None:
    processes = await run_both(world)
    await world.scheduler_peer.down()
    await until(lambda: not alive(processes), deadline_s=TTL_S + 3)
    await world.scheduler_peer.up()
    await world.scheduler.until(lambda: len(world.scheduler.hellos) > 1)
    assert world.scheduler.hellos[-1].node.session_id == ""


async def test_a_node_that_was_stopped_kills_its_slices_before_it_says_anything(world: AgentWorld) -> None:
    processes = await run_both(world)
    world.agents["n1"].process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(TTL_S)  # the time that the machine is stopped for is what is tested
    beats = world.scheduler.beats[N1]
    world.agents["n1"].process.send_signal(signal.SIGCONT)
    await world.scheduler.until(lambda: len(world.scheduler.hellos) > 1)
    assert not alive(processes)
    assert world.scheduler.hellos[1].node.session_id == ""
    assert world.scheduler.beats[N1] >= beats


async def test_without_the_fence_the_slices_of_a_lost_node_live_on(world: AgentWorld) -> None:
    processes = await run_both(world, *UNFENCED)
    world.scheduler.acknowledges = False
    await asyncio.sleep(2 * TTL_S)  # when the scheduler would start them elsewhere
    assert alive(processes) == processes
