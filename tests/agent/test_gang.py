"""Gangs over two real agents: ranks start, meet, report, fail and stop as the scheduler says."""

import io
import json
import tarfile
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from lepton.artifacts import ArtifactStore
from lepton.internal.v1 import run_report_pb2
from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.harness.agents import SECRET, AgentWorld, agent_world
from tests.harness.wait import until

Slice = workload_pb2.Slice
N1, N2 = "pools/general/nodes/n1", "pools/general/nodes/n2"
TRACE = "0af7651916cd43dd8448eb211c80319c"

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path_factory.mktemp("gang")) as world:
        await world.start("n1")
        await world.start("n2")
        await world.scheduler.joined(N1, N2)
        yield world


def rank(world: AgentWorld, job: str, *argv: str, environment: dict[str, str] | None = None) -> program_pb2.Program:
    if job:
        world.trainer.runs.setdefault(job, run_report_pb2.StartRunResponse(spec_json='{"a": 1}'))
    return program_pb2.Program(
        torch=program_pb2.TorchProgram(
            module="tests.harness.ranks.rank", argv=argv, job=job, environment=environment or {}
        )
    )


def running_ranks(world: AgentWorld, run_id: str) -> list[psutil.Process]:
    found = []
    for agent in world.agents.values():
        for process in agent.descendants():
            try:
                if process.cwd().startswith(f"{agent.state}/work/{run_id}."):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
    return found


async def test_a_gang_of_two_nodes_with_two_ranks_each_meets_and_succeeds(world: AgentWorld) -> None:
    workload, job = "projects/acme/workloads/add", "projects/acme/jobs/add"
    world.scheduler.start(
        workload, {N1: (0, 1), N2: (2, 3)}, rank(world, job, "add"), trace_context=f"00-{TRACE}-b7ad6b7169203331-01"
    )
    for index in range(4):
        said = await world.scheduler.reported(workload, index, Slice.SUCCEEDED, Slice.FAILED)
        assert said.state == Slice.SUCCEEDED, said.message
    measured = [e.measurement.values["sum"] for e in world.trainer.events[job, 1, 0] if e.HasField("measurement")]
    assert measured == [6.0]
    assert world.trainer.lines(job, 3) == [
        'rank 3 of 4 {"LOCAL_RANK": "1", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "2"}'
    ]
    started = [request for request in world.trainer.started if request.job == job]
    assert [request.world_size for request in started] == [4, 4]  # once for each node
    assert all(TRACE in traceparent for traceparent in world.trainer.traceparents)
    states = [said.state for said in world.scheduler.reports[workload, 1, 3]]
    assert states == sorted(states)
    assert states[0] == Slice.STARTING
    assert Slice.RUNNING in states
    assert world.scheduler.reports[workload, 1, 0][-1].endpoints["store"].startswith("127.0.0.1:")


async def test_a_failed_rank_is_reported_with_its_last_words(world: AgentWorld) -> None:
    workload, job = "projects/acme/workloads/fail", "projects/acme/jobs/fail"
    world.scheduler.start(workload, {N1: (0,), N2: (1,)}, rank(world, job, "fail"))
    said = await world.scheduler.reported(workload, 1, Slice.FAILED)
    assert said.exit_code == 1
    assert said.message == "ValueError: the data is wrong (exit code 1)"
    events = world.trainer.events[job, 1, 1]
    await world.trainer.until(lambda: events and events[-1].HasField("failure"))
    assert events[-1].failure.message == said.message
    assert "about to fail" in events[-1].failure.log_tail
    assert "ValueError: the data is wrong" in events[-1].failure.log_tail
    world.scheduler.stop(N1, workload)
    stopped = await world.scheduler.reported(workload, 0, Slice.STOPPED)
    assert stopped.exit_code == -9
    await until(lambda: not running_ranks(world, "fail.1"))


async def test_ranks_that_are_stopped_with_grace_save_first(world: AgentWorld) -> None:
    workload, job = "projects/acme/workloads/save", "projects/acme/jobs/save"
    world.scheduler.start(workload, {N1: (0,), N2: (1,)}, rank(world, job, "save"))
    phases = world.trainer.events[job, 1, 1]
    await world.trainer.until(lambda: any(event.phase == "training" for event in phases))
    world.scheduler.stop(N1, workload, grace_s=20.0)
    world.scheduler.stop(N2, workload, grace_s=20.0)
    for index in (0, 1):
        said = await world.scheduler.reported(workload, index, Slice.STOPPED, deadline_s=15)
        assert said.exit_code == 75
    assert any(event.HasField("checkpoint") for event in world.trainer.events[job, 1, 0])


async def test_a_rank_that_does_not_listen_is_stopped_long_before_its_grace_is_over(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/deaf"
    world.scheduler.start(workload, {N1: (0,)}, rank(world, "", "sleep"))
    await world.scheduler.reported(workload, 0, Slice.RUNNING)
    world.scheduler.stop(N1, workload, grace_s=60.0)
    said = await world.scheduler.reported(workload, 0, Slice.STOPPED, deadline_s=10)
    assert said.exit_code == -15


async def test_a_rank_whose_commit_is_refused_hears_why(world: AgentWorld) -> None:
    workload, job = "projects/acme/workloads/refused", "projects/acme/jobs/refused"
    world.trainer.refuses = lambda event: "GENERATION_STALE" if event.HasField("checkpoint") else ""
    world.scheduler.start(workload, {N1: (0,)}, rank(world, job, "save"))
    await world.trainer.until(lambda: any(event.phase for event in world.trainer.events[job, 1, 0]))
    world.scheduler.stop(N1, workload, grace_s=20.0)
    said = await world.scheduler.reported(workload, 0, Slice.STOPPED, deadline_s=15)
    world.trainer.refuses = lambda _: ""
    assert said.exit_code == 1
    await world.trainer.until(lambda: any("GENERATION_STALE" in line for line in world.trainer.lines(job, 0)))


async def test_a_restart_of_the_scheduler_does_not_disturb_the_ranks(world: AgentWorld) -> None:
    workload, job = "projects/acme/workloads/calm", "projects/acme/jobs/calm"
    world.scheduler.start(workload, {N1: (0,), N2: (1,)}, rank(world, job, "save"))
    await world.scheduler.reported(workload, 1, Slice.RUNNING)
    await until(lambda: len(running_ranks(world, "calm.1")) == 2)
    before = {process.pid for process in running_ranks(world, "calm.1")}
    hellos = len(world.scheduler.hellos)
    await world.scheduler_peer.down()
    await world.scheduler_peer.up()
    await world.scheduler.until(lambda: len(world.scheduler.hellos) >= hellos + 2)
    again = [hello for hello in world.scheduler.hellos[hellos:] if hello.slices]
    assert all(hello.node.session_id for hello in again)
    assert {report.workload for hello in again for report in hello.slices} >= {workload}
    assert {process.pid for process in running_ranks(world, "calm.1")} == before
    await world.scheduler.joined(N1, N2)
    for node in (N1, N2):
        world.scheduler.stop(node, workload)
    await world.scheduler.reported(workload, 1, Slice.STOPPED)


async def test_a_restart_of_the_trainer_loses_no_event_and_stores_none_twice(world: AgentWorld) -> None:
    workload, job = "projects/acme/workloads/count", "projects/acme/jobs/count"
    events = world.trainer.events[job, 1, 0]
    world.scheduler.start(workload, {N1: (0,), N2: (1,)}, rank(world, job, "count", "300"))
    for enough in (50, 150):
        await world.trainer.until(lambda: len(events) > enough)  # noqa: B023
        await world.trainer_peer.down()
        await world.trainer_peer.up()
    for index in (0, 1):
        await world.scheduler.reported(workload, index, Slice.SUCCEEDED)
        assert world.trainer.lines(job, index) == [f"line {number}" for number in range(1, 301)]
    assert [e.measurement.step for e in events if e.HasField("measurement")] == list(range(1, 301))
    assert sum(not e.HasField("pace") for e in events) == 600
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert world.trainer.gaps == []


async def test_a_rank_sees_its_own_environment_and_nothing_of_the_agents(world: AgentWorld) -> None:
    workload, job = "projects/acme/workloads/private", "projects/acme/jobs/private"
    program = rank(world, job, "environ", environment={"COLOUR": "blue; touch /tmp/x $(id)"})
    world.scheduler.start(workload, {N1: (0,)}, program, trace_context=f"00-{TRACE}-b7ad6b7169203331-01")
    await world.scheduler.reported(workload, 0, Slice.SUCCEEDED)
    environment = json.loads(world.trainer.lines(job, 0)[0])
    assert SECRET not in str(environment)
    assert environment["COLOUR"] == "blue; touch /tmp/x $(id)"
    assert environment["LEPTON_JOB"] == job
    assert environment["TORCHELASTIC_RUN_ID"] == "private.1"
    assert TRACE in environment["TRACEPARENT"]
    assert environment["spec"] == '{"a": 1}'


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONSTARTUP", "PYTHONPATH", "RANK", "LEPTON_PROJECT", "BASH_ENV"])
async def test_variables_of_loaders_interpreters_and_the_contract_are_refused(world: AgentWorld, name: str) -> None:
    workload = f"projects/acme/workloads/refuse-{name.lower().replace('_', '-')}"
    world.scheduler.start(workload, {N1: (0,)}, rank(world, "", "sleep", environment={name: "/tmp/evil.so"}))
    said = await world.scheduler.reported(workload, 0, Slice.FAILED)
    assert name in said.message


async def test_a_job_that_the_trainer_refuses_to_run_fails_with_the_reason(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/ended"
    program = program_pb2.Program(
        torch=program_pb2.TorchProgram(module="tests.harness.ranks.rank", job="projects/acme/jobs/ended")
    )
    world.scheduler.start(workload, {N1: (0,)}, program)
    said = await world.scheduler.reported(workload, 0, Slice.FAILED)
    assert "JOB_ENDED" in said.message


async def test_a_users_bundle_runs_in_the_place_of_the_built_in_program(world: AgentWorld) -> None:
    workload, job = "projects/acme/workloads/bundle", "projects/acme/jobs/bundle"
    script = (
        b"import os, sys; import beside; print(beside.WORD, sys.argv[1:], os.environ['COLOUR'], os.path.exists('src'))"
    )
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as bundle:
        for name, content in (("src/train.py", script), ("src/beside.py", b"WORD = 'own'")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    digest = ArtifactStore(world.artifacts).put_bytes("acme", data.getvalue())
    code = run_report_pb2.RunCode(
        digest=digest, entry_point="src/train.py", argv=["a;b"], environment={"COLOUR": "red"}
    )
    world.trainer.runs[job] = run_report_pb2.StartRunResponse(spec_json="{}", code=code)
    world.scheduler.start(workload, {N1: (0, 1)}, rank(world, job))
    for index in (0, 1):
        said = await world.scheduler.reported(workload, index, Slice.SUCCEEDED, Slice.FAILED)
        assert said.state == Slice.SUCCEEDED, said.message
        assert world.trainer.lines(job, index) == ["own ['a;b'] red True"]
    await until(lambda: not list((world.folder / "n1" / "work").glob("bundle.*")))


async def test_a_launcher_that_dies_takes_its_ranks_along_and_is_replaced(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/orphan"
    world.scheduler.start(workload, {N1: (0,)}, rank(world, "", "sleep"))
    await world.scheduler.reported(workload, 0, Slice.RUNNING)
    launchers = [each for each in world.agents["n1"].descendants() if "services.agent.launcher" in each.cmdline()]
    next(each for each in launchers if each.ppid() == world.agents["n1"].process.pid).kill()
    said = await world.scheduler.reported(workload, 0, Slice.FAILED)
    assert said.exit_code == -9
    again, job = "projects/acme/workloads/again", "projects/acme/jobs/again"
    world.scheduler.start(again, {N1: (0,)}, rank(world, job, "add"))
    said = await world.scheduler.reported(again, 0, Slice.SUCCEEDED, Slice.FAILED, deadline_s=60)
    assert said.state == Slice.SUCCEEDED, said.message
