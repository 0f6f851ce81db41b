"""What users choose never becomes a command: the agent, its launcher and its warden are traced by strace meanwhile."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from lepton.scheduler.v1 import program_pb2, workload_pb2
from tests.agent.test_scripts import Jobs
from tests.harness.agents import Agent, AgentWorld, agent_world
from tests.harness.wait import until

Slice = workload_pb2.Slice
N1 = "pools/general/nodes/n1"
STRACE = shutil.which("strace")
PAYLOADS = (
    "; touch {}",
    "$(touch {})",
    "`touch {}`",
    "a\ntouch {}\n",
    "| touch {}",
    "&& touch {}",
    "--flag=$(touch {})",
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(STRACE is None, reason="strace is not installed: apt-get install strace"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path_factory.mktemp("injection")) as world:
        await world.start("n1")
        await world.scheduler.joined(N1)
        yield world


@pytest.fixture
def jobs(world: AgentWorld, tmp_path: Path) -> Jobs:
    return Jobs(world, tmp_path)


@asynccontextmanager
async def traced(agent: Agent, log: Path) -> AsyncIterator[Path]:
    """Every program that the agent and all that it has started execute goes to the log."""
    pids = [agent.process.pid, *(each.pid for each in agent.descendants())]
    attach = [word for pid in pids for word in ("-p", str(pid))]
    strace = await asyncio.create_subprocess_exec(
        *(str(STRACE), "-f", "-qq", "-s", "300", "-e", "trace=execve,execveat", "-o", str(log), *attach),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await until(lambda: all(tracer(pid) == strace.pid for pid in pids) or strace.returncode is not None)
        if strace.returncode is not None:
            assert strace.stderr is not None
            pytest.skip(f"strace may not attach here: {(await strace.stderr.read()).decode()}")
        yield log
    finally:
        if strace.returncode is None:
            strace.terminate()
        await strace.wait()


def tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"TracerPid:\s+(\d+)", status)[0])


def executed(log: Path) -> list[str]:
    """The programs that were executed."""
    return re.findall(r'execve(?:at)?\((?:AT_FDCWD, )?"([^"]+)"', log.read_text())


async def test_arguments_and_variables_reach_the_program_as_they_are_and_nothing_else_runs(
    jobs: Jobs, tmp_path: Path
) -> None:
    mark = tmp_path / "injected"
    payloads = [payload.format(mark) for payload in PAYLOADS]
    script = "import os, sys, json; print(json.dumps([sys.argv[1:], [os.environ[f'P{n}'] for n in range(7)]]))"
    environment = {f"P{number}": payload for number, payload in enumerate(payloads)}
    async with traced(jobs.world.agents["n1"], tmp_path / "trace") as log:
        for name, entry in (("inject", "train.py"), ("inject-module", "train")):
            code = {"train.py": script}
            lines = await jobs.run(name, code, entry, argv=payloads, environment=environment)
            assert lines[0] == [json.dumps([payloads, payloads])]
        # The negative control: a script that asks for a shell itself is seen doing so.
        forked = executed(log)
        await jobs.run("shell", {"train.py": f"import os; os.system('touch {tmp_path}/control')"})
        assert forked == []  # ranks are forks of the launcher: no program was executed at all
        assert any(Path(each).name in ("sh", "dash", "bash") for each in executed(log))
    assert not mark.exists()
    assert (tmp_path / "control").exists()


@pytest.mark.slow  # strace sees all of pip and of torch's import
async def test_a_program_that_is_executed_gets_its_arguments_without_a_shell(jobs: Jobs, tmp_path: Path) -> None:
    mark = tmp_path / "injected"
    payloads = [payload.format(mark) for payload in PAYLOADS]
    code = {"train.py": "import sys, json; print(json.dumps(sys.argv[1:]))", "requirements.txt": "# nothing\n"}
    await jobs.run("built", code, requirements="requirements.txt")  # pip itself runs uname and others
    async with traced(jobs.world.agents["n1"], tmp_path / "trace") as log:
        lines = await jobs.run("inject-cold", code, argv=payloads, requirements="requirements.txt")
    assert lines[0][-1] == json.dumps(payloads)
    programs = {Path(each).name for each in executed(log)}
    assert programs
    assert all(name.startswith("python") for name in programs), programs
    assert not mark.exists()


REFUSED = {
    "preload": {"environment": {"LD_PRELOAD": "/tmp/evil.so"}},
    "startup": {"environment": {"PYTHONSTARTUP": "/tmp/evil.py"}},
    "path": {"environment": {"PYTHONPATH": "/tmp"}},
    "shell": {"environment": {"BASH_ENV": "/tmp/evil.sh"}},
    "own": {"environment": {"LEPTON_REPORT_FD": "1"}},
    "nul in a variable": {"environment": {"A": "x\0y"}},
    "nul in an argument": {"argv": ["x\0y"]},
    "script outside": {"entry": "../../../../tmp/evil.py"},
    "folder outside": {"working_directory": "../.."},
    "requirements outside": {"requirements": "../../../etc/passwd"},
    "requirements with an option": {"requirements": "requirements.txt"},
}


@pytest.mark.parametrize("harm", REFUSED)
async def test_what_would_change_what_runs_is_refused_and_nothing_is_executed(
    jobs: Jobs, tmp_path: Path, harm: str
) -> None:
    name = f"harm-{harm.replace(' ', '-')}"
    code = {"train.py": "print('ran')", "requirements.txt": "--config-settings=x -e /tmp\n"}
    async with traced(jobs.world.agents["n1"], tmp_path / "trace") as log:
        (said,) = await jobs.end(name, code, **REFUSED[harm])  # type: ignore[arg-type]
    assert said.state == Slice.FAILED
    assert said.failure.failure_class == "USER_ERROR"
    assert "INVALID" in said.message
    assert executed(log) == []
    assert jobs.world.trainer.lines(f"projects/acme/jobs/{name}", 0) == []


async def test_processes_of_programs_get_no_files_of_the_agents(world: AgentWorld) -> None:
    workload = "projects/acme/workloads/files"
    sleeper = program_pb2.Program(process=program_pb2.ProcessProgram(argv=["sleep", "600"]))
    world.scheduler.start(workload, {N1: (0,)}, sleeper)
    await world.scheduler.reported(workload, 0, Slice.RUNNING)
    found = [each for each in world.agents["n1"].descendants() if each.name() == "sleep"]
    files = Path(f"/proc/{found[0].pid}/fd")
    await until(lambda: {each.name for each in files.iterdir()} == {"0", "1", "2", "3"})  # at first its loader
    world.scheduler.stop(N1, workload)
    await world.scheduler.reported(workload, 0, Slice.STOPPED)
    assert not psutil.pid_exists(found[0].pid)
