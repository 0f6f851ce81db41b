"""The command line as a process: how fast it starts, Ctrl-C, the local stack, completion."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import LogLine
from tests.harness.small_lepton import SmallLepton

pytestmark = pytest.mark.integration

LEPTON = (sys.executable, "-m", "lepton.cli")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
sys.argv = ["lepton", "--help"]
from lepton.cli import main
try:
    main()
except SystemExit as exit:
    assert not exit.code
heavy = {"grpc", "torch", "numpy", "google", "opentelemetry", "yaml", "tritonclient", "asyncio"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_help_takes_less_than_four_tenths_of_a_second() -> None:
    def spent_s() -> float:  # of the processor: how busy the machine is has no part in it
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*LEPTON, "--help"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(spent_s() for _ in range(4)) < 0.4


async def test_ctrl_c_ends_quietly(world: SmallLepton, tmp_path: Path) -> None:
    name = "projects/acme/jobs/digits"
    world.table(Job).put(Job(name=name, state=Job.RUNNING))
    world.lines[name] = [LogLine(offset=1, text="first")]
    environment = {**os.environ, "LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good"}
    process = await asyncio.create_subprocess_exec(
        *LEPTON, "jobs", "logs", "digits", "--follow",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"[rank 0] first\n"
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 130
    assert errors == b""


def test_the_stack_is_a_program_of_the_control_plane(tmp_path: Path) -> None:
    home = {"LEPTON_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    command = [*LEPTON, "status"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **home}, check=False)
    assert done.returncode == 1
    assert "no stack is running" in done.stdout + done.stderr


def test_without_the_control_plane_it_says_so(tmp_path: Path) -> None:
    # Only the SDK can be imported: isolated from the working directory and from other editable installs.
    code = f"""
import sys
sys.path[:] = [path for path in sys.path if path != {str(Path.cwd())!r}]
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in repr(each).lower()]
sys.path.insert(0, {str(Path.cwd() / "sdk")!r})
sys.argv = ["lepton", "up"]
from lepton.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert "the control plane is not installed here" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"), [("lepton de", {"deploy", "deployments"}), ("lepton jobs l", {"list", "logs"})]
)
def test_the_shell_completes_commands(words: str, expected: set[str]) -> None:
    environment = {
        **os.environ,
        "_LEPTON_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(LEPTON, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert set(done.stdout.split()) == expected
