"""Training in one call, as the documents write it: in a script, in a running loop; what is left when all is gone."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local import control
from deploy.local.home import Home
from lepton.client import AsyncClient
from lepton.profile import Profile
from tests.mesh.conftest import leftovers
from tests.sdk.test_curves import scalars

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(420)]

SCRIPT = """
import asyncio, json
from lepton import data, models
from lepton.distributed import distributed_train

train_data, test_data = data.load_train_data(), data.load_test_data()
config = distributed_train.DistributedTrainConfig(
    model=models.ImageClassifier(),
    data=[train_data, test_data],
    epochs=4,
    batch_size=32,
    gpu_count=4,
    name="first",
)
result = distributed_train.train(config)

async def notebook():
    arrays = [train_data.x[:200], train_data.y[:200]]
    return distributed_train.train(distributed_train.DistributedTrainConfig("ImageClassifier", arrays, 1, 50, 1))

second = asyncio.run(notebook())
print(json.dumps({
    "metrics": result.metrics,
    "devices": result.devices,
    "losses": len(result.history["loss"]),
    "agreement": float((result.classify(test_data.x) == test_data.y).mean()),
    "second": second.name,
}))
"""


def run(home: Home, *argv: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    return subprocess.run(
        [sys.executable, *argv],
        env={**environment, "LEPTON_HOME": str(home.root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def lepton(home: Home, *argv: str) -> str:
    key = ("--password-file", str(home.admin_password))
    if not (home.root / "credentials.json").is_file():
        run(home, "-m", "lepton.cli", "login", "--user", "admin", *key)
    done = run(home, "-m", "lepton.cli", *argv, "-p", "default")
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill(home: Home, *components: str) -> None:
    found: dict[str, Any] = control.state(home) or {}
    for component in components:
        psutil.Process(found["components"][component]["pid"]).kill()


async def lines_and_points(home: Home) -> tuple[list[str], list[int]]:
    profile, password = Profile.load(home.profile_file), home.admin_password.read_text().strip()
    async with AsyncClient.open(profile, project="default", user="admin", password=password) as client:
        lines = [line.text async for line in client.jobs.logs("first")]
        return lines, [point.step async for point in client.jobs.metrics("first")]


def test_one_call_starts_a_stack_trains_and_leaves_everything_readable(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (tmp_path / "script.py").write_text(SCRIPT)
    try:
        done = run(home, str(tmp_path / "script.py"))
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert "no Lepton is configured: starting one" in done.stderr
        assert said["metrics"]["test_accuracy"] >= 0.95
        assert said["agreement"] == pytest.approx(said["metrics"]["test_accuracy"], abs=1e-6)
        assert said["devices"].startswith("4 ranks on CPUs, which speak gloo: there are no GPUs")
        assert done.stderr.count("epoch 4/4") == 1
        assert said["losses"] > 4

        lines, steps = asyncio.run(lines_and_points(home))
        assert lines[0].startswith("4 ranks on cpu")
        assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/4", "2/4", "3/4", "4/4"]
        assert lines[-1].startswith("done  test_accuracy")
        assert steps == sorted(steps)
        # The nodes and the trainer die; the supervisor starts them again: nothing that was said is lost.
        kill(home, "agent-general-1", "agent-general-2", "agent-fast-1", "trainer")
        assert asyncio.run(lines_and_points(home)) == (lines, steps)

        second = said["second"].rpartition("/")[2]
        comparison = json.loads(lepton(home, "jobs", "compare", "first", second, "-o", "json"))
        assert comparison["settings"]["workers.count"] == ["4", "1"]
        lepton(home, "jobs", "tensorboard", "first", str(tmp_path / "runs"))
        assert [step for name, step, _ in scalars(tmp_path / "runs" / "first") if name == "loss"][-1] == steps[-1]
    finally:
        control.stop(home)
    assert leftovers(home.root) == []
