"""A node whose clock is not the scheduler's: its agent says so, with what to do."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.harness.agents import AgentWorld, agent_world
from tests.harness.wait import until

N1 = "pools/general/nodes/n1"
pytestmark = pytest.mark.integration


@pytest.fixture
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path_factory.mktemp("skew"), ttl_s=2.0) as world:
        yield world


async def test_the_agent_warns_when_its_clock_differs(world: AgentWorld) -> None:
    await world.start("n1")
    await world.scheduler.joined(N1)
    await until(lambda: world.scheduler.beats[N1] > 5, 60)
    assert "clocks differ" not in world.log("n1")  # the control
    world.scheduler.ahead = timedelta(seconds=61)
    await until(lambda: "clocks differ" in world.log("n1"), 60)
    (told,) = (line for line in world.log("n1").splitlines() if "clocks differ" in line)
    assert "peer=scheduler" in told
    assert "set that one by NTP" in told
    world.scheduler.ahead = timedelta()
    await until(lambda: "clocks agree again" in world.log("n1"), 60)
