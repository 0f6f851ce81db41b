"""`lepton run` against servers in this process: what is sent, what is submitted, how it is shown."""

import asyncio
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Coroutine
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lepton import bundle
from lepton.cli import exits
from lepton.cli.root import app
from lepton.client import AsyncClient
from lepton.errors import InvalidArgument
from lepton.script import Script
from lepton.trainer.v1.job_pb2 import Job, JobError, Parallelism
from lepton.trainer.v1.trainer_service_pb2 import LogLine
from tests.harness.small_lepton import SmallLepton
from tests.harness.wait import until

NAME = "projects/acme/jobs/mine"
Run = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
def run(world: SmallLepton, tmp_path: Path) -> Run:
    async def invoke(*argv: str) -> Any:
        given = {"LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good", "HERE": "from here"}
        return await asyncio.to_thread(CliRunner().invoke, app, ["run", *argv], env=given)

    return invoke


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "pkg").mkdir(parents=True)
    (folder / "conf").mkdir()
    for name in ("train.py", "pkg/__init__.py", "pkg/train.py", "conf/a.yaml", "requirements.txt", "big.log"):
        (folder / name).write_text(f"# {name}\n")
    (folder / ".leptonignore").write_text("*.log\n")
    return folder


def submitted(world: SmallLepton, result: Any) -> Job:
    assert result.exit_code == 0, result.output
    return world.table(Job).get(NAME)


async def test_a_script_is_sent_with_its_folder_and_what_follows_it_is_its_own(
    run: Run, world: SmallLepton, code: Path
) -> None:
    result = await run(
        *("--name", "mine", "--no-wait", "--workers", "4", "--max-workers", "8", "--cpu", "2", "--memory", "2Gi"),
        *("--devices", "0", "--strategy", "fsdp", "--tensor", "2", "--env", "A=b=c", "--env", "HERE", "--pool", "fast"),
        *("--working-directory", "conf", "--requirements", str(code / "requirements.txt"), "--queue", "research"),
        *(str(code / "train.py"), "--lr", "0.1", "--workers", "9", "-o", "json"),
    )
    job = submitted(world, result)
    assert (job.bundle.entry_point, job.bundle.module) == ("train.py", "")
    assert list(job.bundle.argv) == ["--lr", "0.1", "--workers", "9", "-o", "json"]
    assert dict(job.bundle.environment) == {"A": "b=c", "HERE": "from here"}
    assert (job.bundle.working_directory, job.bundle.requirements) == ("conf", "requirements.txt")
    workers = job.workers
    assert (workers.count, workers.max_count, workers.cpu_milli, workers.memory_bytes) == (4, 8, 2000, 2 << 30)
    assert workers.HasField("devices")
    assert workers.devices == 0
    assert (job.parallelism.data, job.parallelism.tensor) == (Parallelism.FSDP, 2)
    assert (list(job.pools), job.queue) == (["pools/fast"], "queues/research")
    content = world.artifacts[f"projects/acme/artifacts/{job.bundle.digest.removeprefix('sha256:')}"]
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        assert "big.log" not in archive.getnames()
        assert {"train.py", "pkg/train.py", "conf/a.yaml"} <= set(archive.getnames())
    assert "6 files" not in result.stderr
    assert "5 files" in result.stderr


@pytest.mark.parametrize("option", [("-m", "pkg.train"), ("--module=pkg.train",), ("-mpkg.train",)])
async def test_what_follows_a_module_is_its_own_too(
    run: Run, world: SmallLepton, code: Path, option: tuple[str, ...]
) -> None:
    job = submitted(
        world, await run("--name", "mine", "--no-wait", "--bundle", str(code), *option, "--workers", "9", "x")
    )
    assert (job.bundle.entry_point, job.bundle.module) == ("", "pkg.train")
    assert list(job.bundle.argv) == ["--workers", "9", "x"]
    assert job.workers.count == 1
    assert not job.HasField("parallelism")


async def test_data_of_any_kind_is_sent_beside_it(run: Run, world: SmallLepton, code: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "1.png").write_bytes(b"png")
    job = submitted(world, await run("--name", "mine", "--no-wait", "--data", str(images), str(code / "train.py")))
    assert job.dataset == bundle.of_data(images).write(tmp_path / "archive")
    assert f"projects/acme/artifacts/{job.dataset.removeprefix('sha256:')}" in world.artifacts
    world.table(Job).remove(NAME)
    digest = "sha256:" + "3" * 64
    job = submitted(world, await run("--name", "mine", "--no-wait", "--data", digest, str(code / "train.py")))
    assert job.dataset == digest


async def test_a_dry_run_lists_and_sends_nothing(run: Run, world: SmallLepton, code: Path) -> None:
    listed = await run("--dry-run", "--data", str(code / "conf"), str(code / "train.py"), "--lr", "1")
    assert listed.exit_code == 0
    for words in ("pkg/train.py", "left out  big.log", "code: 5 files", "data: 1 files", "runs: train.py --lr 1"):
        assert words in listed.stdout
    document = json.loads((await run("--dry-run", "-o", "json", str(code / "train.py"))).stdout)
    assert document["entry_point"] == "train.py"
    assert document["left_out"] == [".leptonignore", "big.log"]
    assert not world.artifacts
    assert not world.count("CreateJob")


async def test_it_is_followed_to_its_end_and_its_failure_is_the_commands(
    run: Run, world: SmallLepton, code: Path
) -> None:
    running = asyncio.create_task(run("--name", "mine", "-o", "json", str(code / "train.py")))
    await until(lambda: world.count("StreamLogs"))
    world.lines[NAME].append(LogLine(offset=1, rank=1, text="epoch [1]"))
    error = JobError(message="ValueError: no", rank=1, log_tail=["Traceback"], advice="correct it")
    world.table(Job).change(NAME, state=Job.FAILED, error=error)
    ended = await running
    assert ended.exit_code == exits.FAILED
    assert json.loads(ended.stdout)["bundle"]["entry_point"] == "train.py"
    for words in ("[rank 1] epoch [1]", "ValueError: no", "  [rank 1] Traceback", "try: correct it"):
        assert words in ended.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "one of the two"),
        (("missing.py",), "FILE_NOT_FOUND"),
        (("--requirements", "/etc/hostname", "{code}/train.py"), "not in the bundled folder"),
        (("--bundle", "{code}/pkg", "{code}/train.py"), "not in the bundled folder"),
        (("{code}/big.log",), "left out of the bundle"),
        (("--working-directory", "..", "{code}/train.py"), "no folder of the bundle"),
        (("--working-directory", "train.py", "{code}/train.py"), "no folder of the bundle"),
        (("--env", "NOWHERE", "{code}/train.py"), "NAME=VALUE"),
        (("--memory", "much", "{code}/train.py"), "--memory"),
        (("--strategy", "magic", "{code}/train.py"), "fsdp"),
        (("--data", "nowhere", "{code}/train.py"), "FILE_NOT_FOUND"),
    ],
)
async def test_wrong_usage_says_what_to_write(
    run: Run, world: SmallLepton, code: Path, argv: tuple[str, ...], words: str
) -> None:
    result = await run("--no-wait", *(each.format(code=code) for each in argv))
    assert result.exit_code != 0
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert not world.count("CreateJob")


async def test_the_client_submits_a_script(world: SmallLepton, code: Path) -> None:
    async with AsyncClient.open(world.profile, project="acme", api_key="lpk_good") as client:
        script = Script(path=code / "train.py", argv=("--lr", "1"), data=code / "conf", environment={"A": "1"})
        job = await client.jobs.submit_script("mine", script, Job(priority=3))
        again = await client.jobs.submit_script("again", script)
    assert (job.name, job.priority, job.workers.count) == (NAME, 3, 1)
    assert job.bundle.digest == again.bundle.digest
    assert job.dataset == again.dataset
    with pytest.raises(InvalidArgument):
        Script(path=code / "train.py", module="pkg.train").prepare()
