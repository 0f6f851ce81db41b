"""`lepton jobs`: watched live and in lines, failures and advice, logs from the end, curves compared and drawn."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lepton.cli import exits, job_watch
from lepton.cli.job_board import Board, bar
from lepton.cli.job_words import details, eta_s, one_line
from lepton.cli.output import Form, Printer
from lepton.cli.root import app
from lepton.cli.shell import Shell, Wishes
from lepton.client import AsyncClient
from lepton.trainer.v1.job_pb2 import Job, JobError, Straggler
from lepton.trainer.v1.trainer_service_pb2 import LogLine
from tests.harness.small_lepton import PASSWORD, SmallLepton
from tests.harness.wait import until
from tests.sdk.test_curves import point, scalars

pytestmark = pytest.mark.integration

NAME = "projects/acme/jobs/digits"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
Run = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
def run(world: SmallLepton, tmp_path: Path) -> Run:
    async def invoke(*argv: str) -> Any:
        environment = {"LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good"}
        given = {**environment, "LEPTON_HOME": None, "LEPTON_PROJECT": None, "LEPTON_TRACE": None}
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), env=given)

    return invoke


def failure(message: str, generation: int, **fields: Any) -> JobError:
    kind = {"class": JobError.OOM_DEVICE}
    return JobError(message=message, generation=generation, rank=3, node="pools/fast/nodes/n2", **kind, **fields)


def troubled() -> Job:
    """A job that runs again after a failure, with a slow rank."""
    job = Job(name=NAME, state=Job.RUNNING, restarts=1, nodes=["pools/fast/nodes/n1", "pools/fast/nodes/n2"])
    job.progress.step, job.progress.total_steps, job.progress.epoch = 450, 1000, 4
    job.progress.fraction, job.progress.samples_per_s, job.progress.utilization = 0.45, 512.0, 0.875
    job.progress.eta_s = 90.0
    job.progress.time.FromDatetime(NOW)
    job.metrics["loss"] = 0.125
    error = failure("CUDA out of memory", 1, advice="halve the batch", log_tail=["Traceback", "OutOfMemoryError"])
    job.failures.append(error)
    job.error.CopyFrom(error)
    job.stragglers.append(Straggler(rank=2, node="pools/fast/nodes/n1", slowdown=1.75))
    return job


def drawn(board: Board, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as captured:
        console.print(board.draw(NOW))
    return captured.get()


def test_the_time_left_counts_down_and_is_unknown_when_it_does_not_run() -> None:
    job = troubled()
    assert eta_s(job, NOW) == 90
    assert eta_s(job, datetime(2026, 11, 21, 12, 1, tzinfo=UTC)) == 30
    assert eta_s(job, datetime(2026, 11, 21, 13, tzinfo=UTC)) == 1
    job.state = Job.PENDING
    assert eta_s(job, NOW) == 0


def test_a_job_in_words() -> None:
    job = troubled()
    assert one_line(job, NOW) == (
        "digits  RUNNING  45%  step 450/1000  epoch 5  loss 0.125  512 samples/s  busy 88%  eta 1m30s  restarts 1"
    )
    waiting = Job(name=NAME, state=Job.PENDING, message="no node has 8 devices")
    assert one_line(waiting, NOW) == "digits  PENDING  no node has 8 devices"
    words = "\n".join(details(job, NOW))
    assert "slower than the others: rank 2 on n1 x1.8" in words
    assert words.count("OOM_DEVICE (generation 1, rank 3 on n2): CUDA out of memory") == 1
    assert "advice: halve the batch" in words
    assert words.endswith("last lines of rank 3:\n      Traceback\n      OutOfMemoryError")
    job.failures.extend(failure(f"failure {at}", at) for at in range(2, 12))
    assert "6 earlier failures" in "\n".join(details(job, NOW))
    assert list(details(Job(name=NAME), NOW)) == []


def test_a_progress_bar_moves_in_eighths() -> None:
    assert [bar(fraction) for fraction in (0, 0.5, 1, 2)] == ["░" * 10, "█" * 5 + "░" * 5, "█" * 10, "█" * 10]
    assert bar(0.1125) == "█▏" + "░" * 8


def test_the_board_shows_all_jobs_those_that_run_first() -> None:
    board = Board(is_one=False)
    assert "there are no jobs yet" in drawn(board)
    ended = Job(name="projects/acme/jobs/old", state=Job.SUCCEEDED, failures=[failure("long ago", 1)])
    board.put(ended)
    board.put(troubled())
    board.measure(NAME, point(1, 1, validation_loss=50.0))
    for at, loss in enumerate((8.0, 4.0, 2.0, 1.0), 1):
        board.measure(NAME, point(at, at, loss=loss))
    board.measure(NAME, point(5, 5, validation_loss=99.0))  # of other samples: it is no part of the curve
    shown = drawn(board)
    header, first, second, *rest = [line.rstrip() for line in shown.splitlines()]
    assert header.split() == [
        "NAME", "STATE", "PROGRESS", "STEP", "EPOCH", "LOSS", "SAMPLES/S", "BUSY", "ETA", "NODES", "RESTARTS",
    ]  # fmt: skip
    assert first.split() == [
        "digits", "RUNNING", "████▌░░░░░", "45%", "450/1000", "5", "1", "█▄▂▁", "512", "88%", "1m30s", "2", "1",
    ]  # fmt: skip
    assert second.split()[:2] == ["old", "SUCCEEDED"]
    assert rest == [
        "digits: slower than the others: rank 2 on n1 x1.8",
        "digits: OOM_DEVICE (generation 1, rank 3 on n2): CUDA out of memory",
        "  advice: halve the batch",
    ]
    board.remove(NAME)
    assert "digits" not in drawn(board)


def test_the_board_cuts_what_does_not_fit() -> None:
    board = Board(is_one=False)
    for number in range(30):
        board.put(Job(name=f"projects/acme/jobs/job-{number}", state=Job.RUNNING))
    console = Console(file=io.StringIO(), width=60)
    with console.capture() as captured:
        console.print(board.draw(NOW, 5))
    assert "and 25 more" in captured.get()
    assert max(map(len, captured.get().splitlines())) <= 60
    for at in range(10_000):
        board.measure("projects/acme/jobs/job-1", point(at, at, loss=float(at)))
    assert len(board._losses["projects/acme/jobs/job-1"].values) <= 4096
    assert board._losses["projects/acme/jobs/job-1"].values[-1] == 9999


async def test_one_job_is_watched_live_with_its_last_lines(world: SmallLepton) -> None:
    world.table(Job).put(troubled())
    world.lines[NAME] = [LogLine(offset=at, rank=0, text=f"line {at}") for at in range(1, 31)]
    world.points[NAME] = [point(1, 1, loss=0.5), point(2, 2, loss=0.25)]
    output = io.StringIO()
    shell = Shell(Wishes())
    shell.printer = Printer(Form.TABLE, Console(file=output, force_terminal=True, width=160, height=60))
    async with AsyncClient(world.profile, user="admin", password=PASSWORD) as client:
        watching = asyncio.create_task(job_watch.watch_one(shell, client, "digits"))
        await until(lambda: "line 30" in output.getvalue() and "█▁" in output.getvalue())
        assert "line 18" not in output.getvalue()  # only the last are asked for
        world.lines[NAME].append(LogLine(offset=31, rank=0, text="the last words"))
        world.table(Job).change(NAME, state=Job.SUCCEEDED)
        ended = await watching
    assert ended is not None
    assert ended.state == Job.SUCCEEDED
    last = output.getvalue()[output.getvalue().rindex("NAME") :]
    assert "SUCCEEDED" in last
    assert "the last words" in last


async def test_all_jobs_are_watched_live_as_they_come_and_go(world: SmallLepton) -> None:
    output = io.StringIO()
    shell = Shell(Wishes())
    shell.printer = Printer(Form.TABLE, Console(file=output, force_terminal=True, width=160, height=40))
    async with AsyncClient(world.profile, user="admin", password=PASSWORD) as client:
        watching = asyncio.create_task(job_watch.watch_all(shell, client))
        await until(lambda: "there are no jobs yet" in output.getvalue())
        world.table(Job).put(troubled())
        await until(lambda: "halve the batch" in output.getvalue())
        world.table(Job).change(NAME, state=Job.CANCELLED)
        await until(lambda: "CANCELLED" in output.getvalue())
        world.table(Job).remove(NAME)
        await until(lambda: output.getvalue().count("there are no jobs yet") > 1)
        watching.cancel()
        assert isinstance((await asyncio.gather(watching, return_exceptions=True))[0], asyncio.CancelledError)


async def test_watching_into_a_pipe_prints_a_line_for_every_change(run: Run, world: SmallLepton) -> None:
    world.table(Job).put(Job(name=NAME, state=Job.PENDING, message="waits for 4 devices"))
    watching = asyncio.create_task(run("jobs", "watch", "digits"))
    await until(lambda: world.sent["WatchJobs"] >= 2)
    world.table(Job).put(troubled())
    world.table(Job).put(troubled())  # nothing new to say
    await until(lambda: world.sent["WatchJobs"] >= 5)
    job = troubled()
    job.state = Job.FAILED
    job.failures.append(failure("again", 2))
    world.table(Job).put(job)
    watched = await watching
    assert watched.exit_code == exits.FAILED
    lines = watched.stdout.splitlines()
    assert lines[0] == "digits  PENDING  waits for 4 devices"
    assert sum(line.startswith("digits  RUNNING  45%") for line in lines) == 1
    assert "    advice: halve the batch" in lines
    assert "  OOM_DEVICE (generation 2, rank 3 on n2): again" in lines
    assert any(line.startswith("digits  FAILED") for line in lines)


async def test_a_failure_is_told_at_once_while_the_job_goes_on(run: Run, world: SmallLepton) -> None:
    training = asyncio.create_task(run("train", "image_classifier", "--data", "digits", "--name", "digits"))
    await until(lambda: world.count("StreamMetrics"))
    world.table(Job).put(troubled())
    await until(lambda: world.sent["WatchJobs"] >= 3)
    world.table(Job).change(NAME, state=Job.SUCCEEDED)
    told = (await training).stderr
    assert "OOM_DEVICE (generation 1, rank 3 on n2): CUDA out of memory\n  advice: halve the batch\n" in told
    assert told.index("OutOfMemoryError") < told.index("SUCCEEDED")


async def test_a_job_is_shown_with_what_failed_and_what_helps(run: Run, world: SmallLepton) -> None:
    world.table(Job).put(troubled())
    shown = (await run("jobs", "get", "digits")).stdout
    assert "OOM_DEVICE (generation 1, rank 3 on n2): CUDA out of memory" in shown
    assert "advice: halve the batch" in shown
    assert "OutOfMemoryError" in shown
    assert json.loads((await run("jobs", "get", "digits", "-o", "json")).stdout)["failures"][0]["class"] == "OOM_DEVICE"


async def test_logs_from_the_end_and_from_an_offset(run: Run, world: SmallLepton) -> None:
    world.table(Job).put(Job(name=NAME, state=Job.SUCCEEDED))
    world.lines[NAME] = [LogLine(offset=at, rank=at % 2, text=f"line {at}") for at in range(1, 11)]
    world.lines[NAME].append(LogLine(offset=11, rank=-1, text="[lepton] 5 lines were dropped here"))
    assert (await run("jobs", "logs", "digits", "--tail", "2")).stdout == (
        "[rank 0] line 10\n[lepton] 5 lines were dropped here\n"
    )
    tail_of_one = await run("jobs", "logs", "digits", "--tail", "2", "--rank", "1", "--follow")
    assert tail_of_one.stdout == "[rank 1] line 7\n[rank 1] line 9\n"
    since = await run("jobs", "logs", "digits", "--since-offset", "8", "--rank", "0")
    assert since.stdout == "[rank 0] line 10\n"


async def test_measurements_are_thinned_and_resumed(run: Run, world: SmallLepton) -> None:
    world.table(Job).put(Job(name=NAME, state=Job.SUCCEEDED))
    world.points[NAME] = [point(at, at, loss=1.0) for at in range(1, 11)]
    few = (await run("jobs", "metrics", "digits", "--max-points", "2", "-o", "json")).stdout.splitlines()
    assert [json.loads(line)["step"] for line in few] == ["1", "10"]
    rest = (await run("jobs", "metrics", "digits", "--since-offset", "8")).stdout.splitlines()
    assert rest == ["epoch 1  step 9  loss 1.0000", "epoch 2  step 10  loss 1.0000"]


async def test_jobs_are_compared(run: Run, world: SmallLepton) -> None:
    for number, name in enumerate(("small", "large")):
        job = Job(name=f"projects/acme/jobs/{name}", state=Job.SUCCEEDED, metrics={"loss": 0.5 - number / 4})
        job.recipe.name, job.recipe.batch_size, job.workers.count = "image_classifier", 32 << number, 2
        world.table(Job).put(job)
        world.points[job.name] = [point(1, 10, loss=0.75, samples_per_s=10.0), point(2, 20, loss=0.5 - number / 4)]
    table = (await run("jobs", "compare", "small", "large")).stdout.splitlines()
    assert table[0].split() == ["small", "large"]
    rows = {line[:17].rstrip(): line[17:].split() for line in table}
    assert rows["recipe.batch_size"] == ["32", "64"]
    assert rows["best loss"] == ["0.5", "(step", "20)", "0.25", "(step", "20)"]
    assert not any("workers" in line for line in table)  # the same in both
    document = json.loads((await run("jobs", "compare", "small", "large", "-o", "json")).stdout)
    assert document["jobs"] == ["small", "large"]
    assert document["best"]["loss"] == [{"value": 0.5, "step": 20}, {"value": 0.25, "step": 20}]
    assert document["samples_per_s"] == [10.0, 10.0]
    assert (await run("jobs", "compare", "small", "small")).exit_code == 13
    assert (await run("jobs", "compare", "small", "none")).exit_code == 15


async def test_curves_are_drawn(run: Run, world: SmallLepton, tmp_path: Path) -> None:
    world.table(Job).put(Job(name=NAME, state=Job.RUNNING))
    world.points[NAME] = [point(1, 10, loss=0.75), point(2, 20, loss=0.5)]
    out = tmp_path / "curves.svg"
    plotted = await run("jobs", "plot", "digits", "--metric", "loss", "--by", "minute", "--out", str(out))
    assert (plotted.exit_code, plotted.stdout) == (0, f"{out}\n")
    assert "<svg" in await asyncio.to_thread(out.read_text)
    assert (await run("jobs", "plot", "digits", "--out", str(tmp_path / "curves.exe"))).exit_code == 13
    refused = await run("jobs", "plot", "digits", "--metric", "accuracy", "--out", str(out))
    assert (refused.exit_code, "not among loss" in refused.stderr) == (19, True)


async def test_event_files_are_written_and_followed(run: Run, world: SmallLepton, tmp_path: Path) -> None:
    world.table(Job).put(Job(name=NAME, uid="one", state=Job.RUNNING))
    world.points[NAME] = [point(1, 10, loss=0.75)]
    written = await run("jobs", "tensorboard", "digits", str(tmp_path / "runs"))
    assert written.stdout == f"{tmp_path}/runs/digits\n"
    assert "tensorboard --logdir" in written.stderr
    following = asyncio.create_task(run("jobs", "tensorboard", "digits", str(tmp_path / "runs"), "--follow"))
    await until(lambda: world.count("StreamMetrics") >= 2)
    world.points[NAME].append(point(2, 20, loss=0.5))
    world.table(Job).change(NAME, state=Job.SUCCEEDED)
    assert (await following).exit_code == 0
    assert [step for _, step, _ in scalars(tmp_path / "runs" / "digits")] == [10, 20]
