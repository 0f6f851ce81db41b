"""The life of a service as a process: it serves, drains on SIGTERM, and dies when a loop dies."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from bench.echo import EchoMessage, EchoStub
from chassis.credentials import Credentials
from lepton import channel
from tests.harness.wait import until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def greeter(folder: Path, extra: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    config = folder / "greeter.toml"
    config.write_text(
        f'folder = "{folder}"\n{extra}\n[listen]\nports_file = "{folder}/ports.json"\n'
        f'[identity]\nstate_dir = "{folder}/state"\n[limits]\ndrain_s = 5\n'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chassis.greeter", "--config", str(config),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'sdk'}:{ROOT}"}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_sigterm_finishes_calls_in_flight_then_closes_everything_in_order(tmp_path: Path) -> None:
    async with greeter(tmp_path) as process:
        await until(lambda: (tmp_path / "ports.json").exists(), 20)
        port = json.loads((tmp_path / "ports.json").read_text())["client"]
        kept = Credentials.load(tmp_path / "state")
        assert kept is not None
        async with channel.connect(
            f"127.0.0.1:{port}", trust_bundle_pem=kept.bundle_pem, server_name="greeter"
        ) as connection:
            call = EchoStub(connection).Anyone(EchoMessage(text="x"))
            await until(lambda: (tmp_path / "entered").exists())
            process.send_signal(signal.SIGTERM)
            assert (await call).text == "finished"
        _, stderr = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert (tmp_path / "closed").read_text() == f"cancelled in {process.pid}"  # loops end before dependencies
    events = [json.loads(line)["event"] for line in stderr.decode().splitlines()]
    assert [each for each in events if each in ("serving", "drained", "stopped")] == ["serving", "drained", "stopped"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ('fails = "loop"', "the loop is broken"),
        ('fails = "build"', "cannot build"),
        ("typo = 1", "configuration: unknown setting typo"),
    ],
)
async def test_a_service_that_cannot_go_on_ends_with_an_error(tmp_path: Path, extra: str, said: str) -> None:
    async with greeter(tmp_path, extra) as process:
        _, stderr = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode not in (0, None)
    assert said in stderr.decode()


_STARTS_ONE: Final = """
import asyncio, os, sys
from chassis.app import loop_factory

os.register_at_fork(after_in_child=lambda: os.write(1, b"ran in the child"))
with asyncio.Runner(loop_factory=loop_factory(starts_processes=sys.argv[1] == "True")) as runner:
    process = runner.run(asyncio.create_subprocess_exec("true"))
    runner.run(process.wait())
"""


@pytest.mark.parametrize("starts_processes", [True, False])
def test_nothing_runs_between_fork_and_exec_of_what_an_agent_starts(starts_processes: bool) -> None:
    """An agent hung at its start: a hook ran in the child and waited for a lock. The other loop is the control."""
    ran = subprocess.run(
        (sys.executable, "-c", _STARTS_ONE, str(starts_processes)), cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    assert ran.stdout == (b"" if starts_processes else b"ran in the child")
