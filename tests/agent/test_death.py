"""How agents end: by SIGKILL with all that they run, by SIGTERM in good order, and never two with the same state."""

import signal
import sys
from collections.abc import AsyncIterator

import psutil
import pytest

from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.harness.agents import AgentWorld, agent_world
from tests.harness.wait import until

Slice = workload_pb2.Slice
N1 = "pools/general/nodes/n1"
WORKLOAD = "projects/acme/workloads/mortal"
# A process that hides a child of its own behind a second session and a dead parent.
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(1), os.close(2)
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""

pytestmark = pytest.mark.integration


@pytest.fixture
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path_factory.mktemp("death")) as world:
        yield world


async def run_both(world: AgentWorld) -> list[psutil.Process]:
    agent = await world.start("n1")
    await world.scheduler.joined(N1)
    deaf = program_pb2.TorchProgram(module="tests.harness.ranks.rank", argv=["sleep"])
    world.scheduler.start(WORKLOAD, {N1: (0, 1)}, program_pb2.Program(torch=deaf))
    command = program_pb2.ProcessProgram(argv=[sys.executable, "-c", DAEMON])
    world.scheduler.start(f"{WORKLOAD}-too", {N1: (0,)}, program_pb2.Program(process=command))
    for index in (0, 1):
        await world.scheduler.reported(WORKLOAD, index, Slice.RUNNING, deadline_s=60)
    await world.scheduler.reported(f"{WORKLOAD}-too", 0, Slice.RUNNING)
    # Two ranks, their store and launcher; the warden, the process and its daemon.
    await until(lambda: len(agent.descendants()) >= 7)
    return agent.descendants()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def test_sigkill_of_the_agent_leaves_nothing_that_it_has_started(world: AgentWorld) -> None:
    processes = await run_both(world)
    world.agents["n1"].process.kill()
    await world.agents["n1"].process.wait()
    await until(lambda: not alive(processes), deadline_s=15)


async def test_sigterm_stops_the_slices_says_goodbye_and_exits_with_0(world: AgentWorld) -> None:
    processes = await run_both(world)
    world.agents["n1"].process.send_signal(signal.SIGTERM)
    assert await world.agents["n1"].process.wait() == 0
    assert world.scheduler.goodbyes == [N1]
    assert world.scheduler.reports[WORKLOAD, 1, 1][-1].state == Slice.STOPPED
    assert world.scheduler.reports[f"{WORKLOAD}-too", 1, 0][-1].state == Slice.STOPPED
    await until(lambda: not alive(processes), deadline_s=15)
    assert not world.agents["n1"].work()


async def test_a_second_agent_with_the_same_state_does_not_start(world: AgentWorld) -> None:
    first = await world.start("n1")
    await world.scheduler.joined(N1)
    second = await world.start("n1")
    assert await second.process.wait() != 0
    assert "STATE_IN_USE" in world.log("n1")
    assert first.process.returncode is None
    assert len(world.scheduler.hellos) == 1


@pytest.mark.slow
async def test_what_a_killed_agent_left_on_its_disk_is_gone_when_it_starts_again(world: AgentWorld) -> None:
    await run_both(world)
    world.agents["n1"].process.kill()
    await world.agents["n1"].process.wait()
    assert world.agents["n1"].work()
    await world.start("n1")
    await world.scheduler.until(lambda: len(world.scheduler.hellos) > 1, deadline_s=60)
    assert not world.agents["n1"].work()
    assert world.scheduler.hellos[-1].node.session_id == ""
