"""NVIDIA's perf_analyzer through the gateway: it asks for metadata, configuration and statistics, too."""

import asyncio
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.environment import Pip
from deploy.tools.install import perf_analyzer_tool
from deploy.tools.locate import SHARE
from tests.inference.clients.example_models import deployed
from tests.inference.clients.stack import Front, Stack

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def perf_analyzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, fetched at its pinned digest into the folder of the tools the first time."""
    with (tmp_path_factory.mktemp("pip") / "log").open("w") as log:
        try:
            perf_analyzer_tool().ensure(SHARE, Pip(Path(sys.executable), log))
        except (SystemExit, OSError, ValueError) as error:
            pytest.skip(f"perf_analyzer is not to be had: {error}")
    return SHARE / "perf-analyzer" / "perf_analyzer"


async def measured(stack: Front, program: Path, report: Path, *arguments: str) -> list[dict[str, str]]:
    """The rows of its report."""
    command = [
        *(str(program), "-u", stack.address, "-i", "grpc", "-f", str(report), "-p", "1000", "-s", "60", "-r", "4"),
        *("--ssl-grpc-use-ssl", "--ssl-grpc-root-certifications-file", str(stack.certificate)),
        *("-H", f"authorization:Bearer {stack.token}", *arguments),
    ]
    libraries = {"LD_LIBRARY_PATH": str(program.parent / "libs")}
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, **libraries})
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return list(csv.DictReader(report.read_text().splitlines()))  # noqa: ASYNC240 (its writer has ended)


async def test_it_measures_a_model_at_several_concurrencies(stack: Stack, perf_analyzer: Path, tmp_path: Path) -> None:
    model = ["-m", deployed("simple"), "--concurrency-range", "1:4:3"]
    rows = await measured(stack, perf_analyzer, tmp_path / "report.csv", *model)
    assert [row["Concurrency"] for row in rows] == ["1", "4"]
    assert all(float(row["Inferences/Second"]) > 0 for row in rows)


async def test_it_measures_streams(stack: Stack, perf_analyzer: Path, tmp_path: Path) -> None:
    model = ["-m", deployed("simple"), "--streaming", "--concurrency-range", "2"]
    (row,) = await measured(stack, perf_analyzer, tmp_path / "report.csv", *model)
    assert float(row["Inferences/Second"]) > 0
