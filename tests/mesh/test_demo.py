"""The main job, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.local import control
from deploy.local.home import Home
from tests.mesh.conftest import leftovers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]


def demo(home: Home) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.demo"],
        env={**os.environ, "LEPTON_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lepton(home: Home, *words: str) -> str:
    """What a command prints on the demo's stack, as whoever the demo signed in."""
    environment = {**os.environ, "LEPTON_HOME": str(home.root)}
    command = [sys.executable, "-m", "lepton.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_demo_trains_deploys_and_predicts_and_a_second_run_works(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    try:
        for _ in ("on a fresh machine", "while the stack is up"):
            process = demo(home)
            output, _ = process.communicate(timeout=200)
            assert process.returncode == 0, output
            report = json.loads((home.root / "demo.json").read_text())
            assert report["accuracy"] >= 0.97
            assert report["workers"] == 4
            assert report["nodes"] >= 2
            assert report["replicas"] == 2
            assert report["predictions_checked"] >= 100
            expected = {"lepton-cli", "auth", "scheduler", "trainer", "agent", "rank", "inference", "gateway", "triton"}
            assert expected <= set(report["services_in_trace"])
            assert report["trace_id"] in output or len(report["trace_id"]) == 32
            assert report["job"] in lepton(home, "jobs", "list", "-o", "name").split()  # signed in, a project chosen
    finally:
        control.stop(home)
    assert leftovers(home.root) == []


@pytest.mark.slow
@pytest.mark.parametrize("after", ["starting auth", "starting gateway", "submitted", "registered"])
def test_ctrl_c_leaves_no_process(tmp_path: Path, after: str) -> None:
    home = Home(tmp_path / "home")
    process = demo(home)
    assert process.stdout is not None
    for line in process.stdout:
        if after in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    deadline = time.monotonic() + 30
    while leftovers(home.root) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftovers(home.root) == []
