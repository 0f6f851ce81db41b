"""A parameter server's worker that is killed is started again by its agent, and the gang goes on as if nothing was."""

import json
from pathlib import Path

import psutil
import pytest

from lepton.internal.v1 import run_report_pb2
from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.harness.agents import AgentWorld, agent_world
from tests.harness.wait import until

Slice = workload_pb2.Slice
NODE = "pools/general/nodes/n1"
WORKLOAD, JOB, STEPS = "projects/acme/workloads/served", "projects/acme/jobs/served", 40

pytestmark = pytest.mark.integration


async def test_a_killed_worker_comes_back_in_the_same_generation(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)  # ranks are other users where the agent can make them so
    async with agent_world(tmp_path) as world:
        await world.start("n1")
        await world.scheduler.joined(NODE)
        plan = json.dumps({"data": "PARAMETER_SERVER", "servers": 1, "maxStaleness": 4})
        world.trainer.runs[JOB] = run_report_pb2.StartRunResponse(spec_json="{}", parallelism_json=plan)
        argv = (str(folder), str(STEPS), "0", str(STEPS // 2))
        torch = program_pb2.TorchProgram(module="tests.harness.ranks.serving", argv=argv, job=JOB)
        world.scheduler.start(WORKLOAD, {NODE: (0, 1, 2)}, program_pb2.Program(torch=torch))
        await world.trainer.until(lambda: "step 3" in world.trainer.lines(JOB, 2))
        (victim,) = processes_of(world, 2)
        victim.kill()
        await until(lambda: [each.pid for each in processes_of(world, 2)] not in ([], [victim.pid]))
        (folder / "go").touch()
        for index in range(3):
            said = await world.scheduler.reported(WORKLOAD, index, Slice.SUCCEEDED, Slice.FAILED)
            assert said.state == Slice.SUCCEEDED, said.message
        await world.trainer.until(lambda: world.trainer.lines(JOB, 2)[-1].startswith("{"))
        told = json.loads(world.trainer.lines(JOB, 2)[-1])
        assert told["joined_after"] >= 3
        failures = [event.failure for event in world.trainer.events[JOB, 1, 2] if event.HasField("failure")]
        assert [failure.exit_code for failure in failures] == [-9]  # it is told all the same


def processes_of(world: AgentWorld, rank: int) -> list[psutil.Process]:
    found = []
    for process in world.agents["n1"].descendants():
        try:
            if process.environ().get("RANK") == str(rank) or process.cwd().endswith(f"/served.1.{rank}"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found
