"""Decisions and batch predictions on the whole stack, as users run them: the example, and the commands."""

import asyncio
import json
import os
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from lepton.client import AsyncClient
from tests.harness.wait import until
from tests.mesh.conftest import PROJECT, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "loan_decisions" / "decide.py"
ROWS = 20_000


def workers(home: Path) -> list[psutil.Process]:
    """The processes of this stack that predict a shard now."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = str(home) in process.environ().get("LEPTON_ARTIFACTS", "")
            if mine and "services.inference.batch.shard" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


async def command(stack: Stack, password: str, *argv: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "LEPTON_PROFILE": str(stack.home.profile_file), "LEPTON_PROJECT": PROJECT}
    login = [sys.executable, "-m", "lepton.cli", "login", "--user", "admin", "--password-file", password]
    signed = await asyncio.create_subprocess_exec(*login, env=environment)
    assert await signed.wait() == 0
    return await asyncio.create_subprocess_exec(sys.executable, *argv, env=environment, stdout=asyncio.subprocess.PIPE)


async def test_a_risk_model_decides_and_scores_a_dataset(stack: Stack, client: AsyncClient, tmp_path: Path) -> None:
    password = str(stack.home.admin_password)
    example = await command(stack, password, str(EXAMPLE), "--rows", "2000")
    told, _ = await example.communicate()
    assert example.returncode == 0
    report = json.loads(told)
    assert report["rows_scored_in_batch"] == 2000
    assert report["mean_cost_of_decisions"] < report["mean_cost_of_the_likeliest_class"]

    random = np.random.default_rng(3)
    table = tmp_path / "rows.csv"
    lines = [f"{a:.3f},{b:.3f},car,{c:.3f}" for a, b, c in random.lognormal(2, 1, (ROWS, 3))]
    table.write_text("\n".join(["income,amount,purpose,years_employed", *lines, "not,a,row"]) + "\n")
    out = tmp_path / "out.jsonl"
    argv = ["predict-batch", "loans", "--data", str(table), "--workers", "2", "--shard-rows", "2000", "--name", "cli"]
    argv += ["--format", "jsonl", "--max-bad-rows", "1", "--out", str(out), "-o", "json"]
    running = await command(stack, password, "-m", "lepton.cli", *argv)
    reading = asyncio.ensure_future(running.communicate())
    await until(lambda: workers(stack.home.root), 300)
    workers(stack.home.root)[0].kill()
    told, _ = await reading
    assert running.returncode == 0
    assert json.loads(told)["state"] == "SUCCEEDED"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(ROWS + 1))
    assert [row["row"] for row in rows if "error" in row] == [ROWS]
