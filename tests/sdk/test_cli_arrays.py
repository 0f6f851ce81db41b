"""`lepton workloads run --array`: what is asked for, and how an array is shown."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lepton.cli import arrays, exits
from lepton.cli.root import app
from lepton.scheduler.v1.workload_pb2 import TaskArray, Workload
from tests.harness.small_lepton import SmallLepton

Run = Callable[..., Coroutine[Any, Any, Any]]
NAME = "projects/acme/workloads/resize"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
def run(world: SmallLepton, tmp_path: Path) -> Run:
    """Run a command, signed in by API key."""

    async def invoke(*argv: str) -> Any:
        environment = {
            "LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good",
            "LEPTON_HOME": None, "LEPTON_PROJECT": "acme", "LEPTON_TRACE": None,
        }  # fmt: skip
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), env=environment)

    return invoke


@pytest.mark.parametrize(
    ("text", "first", "count", "at_once"),
    [("1000", 0, 1000, 0), ("0-999", 0, 1000, 0), ("5-7", 5, 3, 0), ("0-999%50", 0, 1000, 50), ("10%3", 0, 10, 3)],
)
def test_an_array_is_read(text: str, first: int, count: int, at_once: int) -> None:
    assert arrays.read(text) == arrays.Wish(first=first, count=count, at_once=at_once)


@pytest.mark.parametrize("text", ["", "0", "7-3", "1,3", "0-999%0", "100001", "-5", "a", "1-2-3", "5%"])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        arrays.read(text)


def test_counts_and_indices_are_shown_as_people_write_them() -> None:
    assert arrays.counts(TaskArray(task_count=9)) == "9 waiting"
    assert arrays.counts(TaskArray(succeeded=3, running=2, waiting=1)) == "3 done, 2 running, 1 waiting"
    assert arrays.indices([3, 1, 17, 3]) == "3,17-19"
    assert arrays.indices([at for each in range(0, 60, 2) for at in (each, 1)]).endswith("38,...")


async def test_an_array_is_submitted(run: Run, world: SmallLepton) -> None:
    made = await run(
        "workloads", "run", "resize", "--array", "10-19%5", "--cpu", "0.5", "--memory", "1Gi", "--max-restarts", "2",
        "--env", "SIZE=large", "--priority", "7", "--pool", "fast", "--label", "region=eu", "--no-wait",
        "--", "python3", "resize.py", "--fast",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    workload = world.table(Workload).get(NAME)
    assert (workload.array.first_index, workload.array.task_count) == (10, 10)
    assert (workload.kind, workload.priority, workload.max_restarts) == (Workload.BATCH, 7, 2)
    (group,) = workload.groups
    assert (group.min_count, group.max_count, group.resources.cpu_milli) == (1, 5, 500)
    assert group.resources.memory_bytes == 1 << 30
    assert list(group.program.process.argv) == ["python3", "resize.py", "--fast"]
    assert dict(group.program.process.environment) == {"SIZE": "large"}
    assert (list(workload.pools), dict(workload.labels)) == (["pools/fast"], {"region": "eu"})


async def test_what_has_failed_is_told(run: Run, world: SmallLepton) -> None:
    array = TaskArray(task_count=9, first_index=1, succeeded=6, failed=3, failed_runs=[2, 1, 5, 2])
    array.failures.add(index=2, exit_code=4, message="no such image (exit code 4)", node="pools/fast/nodes/n7")
    world.table(Workload).put(Workload(name=NAME, kind=Workload.BATCH, state=Workload.FAILED, array=array))
    shown = await run("workloads", "get", "resize")
    assert "6 done, 3 failed" in shown.stdout
    assert "failed: 2,5-6" in shown.stdout
    assert "2 on n7: no such image (exit code 4)" in shown.stdout


async def test_a_wrong_array_is_wrong_usage(run: Run) -> None:
    assert (await run("workloads", "run", "x", "--array", "9-1", "--", "true")).exit_code == exits.USAGE
    assert (await run("workloads", "run", "x", "--env", "nothing", "--", "true")).exit_code == exits.USAGE
