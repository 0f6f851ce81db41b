"""The command line against servers in this process: outputs, exit codes, signing in, errors."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lepton.cli import exits
from lepton.cli.root import COMMANDS, app, load
from lepton.errors import CLASSES, LeptonError
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.scheduler.v1.node_pb2 import Node
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job, JobError
from lepton.trainer.v1.trainer_service_pb2 import LogLine, MetricPoint
from tests.harness.small_lepton import PASSWORD, SmallLepton
from tests.harness.wait import until

NAME = "projects/acme/jobs/digits"
Run = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
def run(world: SmallLepton, tmp_path: Path) -> Run:
    """Run a command, signed in by API key unless it is told otherwise."""

    async def invoke(*argv: str, stdin: str = "", **environment: str) -> Any:
        base = {"LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": "lpk_good", "LEPTON_HOME": None}
        given = {**base, "LEPTON_PROJECT": None, "LEPTON_TRACE": None, **environment}
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), input=stdin, env=given)

    return invoke


async def test_signing_in_and_out(run: Run, world: SmallLepton, tmp_path: Path) -> None:
    nobody = {"LEPTON_API_KEY": ""}
    refused = await run("whoami", **nobody)
    assert refused.exit_code == 26
    assert "try: lepton login" in refused.stderr
    (tmp_path / "password").write_text(PASSWORD + "\n")
    signed_in = await run("login", "--user", "admin", "--password-file", str(tmp_path / "password"), **nobody)
    assert (signed_in.exit_code, signed_in.stderr) == (0, "signed in as users/admin\n")
    assert (await run("whoami", **nobody)).stdout == "users/admin\n  admin in the whole organisation\n"
    assert json.loads((await run("whoami", "-o", "json", **nobody)).stdout)["principal"] == "users/admin"
    assert (await run("logout", **nobody)).exit_code == 0
    assert (await run("whoami", **nobody)).exit_code == 26
    assert (await run("login", "--user", "alice", stdin="wrong\n", **nobody)).exit_code == 26
    assert (await run("login", "--user", "alice", stdin=f"{PASSWORD}\n", **nobody)).exit_code == 0
    assert (await run("login", "--api-key", "--password-file", "-", stdin="lpk_good\n", **nobody)).exit_code == 0
    assert "serviceAccounts/robot" in (await run("whoami", **nobody)).stdout
    assert (await run("login", **nobody)).exit_code == exits.USAGE
    assert PASSWORD not in (tmp_path / "credentials.json").read_text()


async def test_every_form_of_output(run: Run, world: SmallLepton) -> None:
    metrics = {"loss": 0.25, "accuracy": 0.98}
    for job_id, state in (("digits", Job.SUCCEEDED), ("other", Job.RUNNING)):
        name = f"projects/acme/jobs/{job_id}"
        job = Job(name=name, state=state, metrics=metrics, message="all is [well]", nodes=["pools/general/nodes/n1"])
        job.workers.count = 2
        job.progress.fraction = 0.5
        world.table(Job).put(job)
    table = (await run("jobs", "list")).stdout.splitlines()
    assert table[0].split() == ["NAME", "STATE", "PROGRESS", "METRICS", "WORKERS", "AGE"]
    assert table[1].split() == ["digits", "SUCCEEDED", "50%", "loss=0.25", "accuracy=0.98", "2", "-"]
    wide = (await run("jobs", "list", "-o", "wide")).stdout.splitlines()
    assert "all is [well]" in wide[1]
    assert (await run("jobs", "list", "-o", "name")).stdout.split() == [NAME, "projects/acme/jobs/other"]
    listed = json.loads((await run("jobs", "list", "-o", "json")).stdout)
    assert [(each["state"], each["metrics"]["accuracy"]) for each in listed] == [("SUCCEEDED", 0.98), ("RUNNING", 0.98)]
    one = json.loads((await run("jobs", "get", "digits", "-o", "json")).stdout)
    assert yaml.safe_load((await run("jobs", "get", "digits", "-o", "yaml")).stdout) == one
    assert one["restarts"] == 0  # what is not set is there too
    assert (await run("jobs", "list", "-p", "empty", "-o", "json")).stdout == "[]\n"
    assert (await run("jobs", "list", "-o", "xml")).exit_code == exits.USAGE


async def test_the_fleet(run: Run, world: SmallLepton) -> None:
    world.table(Pool).put(Pool(name="pools/general", node_count=2))
    node = Node(name="pools/general/nodes/n1", state=Node.READY)
    node.capacity.cpu_milli, node.capacity.memory_bytes, node.capacity.device_milli = 8000, 8 << 30, 2000
    node.devices.add(model="virtual")
    world.table(Node).put(node)
    assert "8 cpu, 8 GiB, 2 dev" in (await run("nodes", "list", "--pool", "general")).stdout
    assert (await run("pools", "list", "-o", "name")).stdout == "pools/general\n"
    created = await run("pools", "create", "fast", "--class", "performance", "-o", "json")
    assert json.loads(created.stdout)["class"] == "PERFORMANCE"
    assert (await run("pools", "create", "fast")).exit_code == 16
    assert (await run("nodes", "join-token", "n2")).stdout == "lpj_once\n"
    world.table(Workload).put(Workload(name="projects/acme/workloads/w", state=Workload.PENDING))
    assert "PENDING" in (await run("workloads", "list", "-A")).stdout
    assert (await run("workloads", "get", "none")).exit_code == 15


async def test_people_programs_and_projects(run: Run, world: SmallLepton, tmp_path: Path) -> None:
    assert (await run("projects", "create", "acme", "--display-name", "Acme")).exit_code == 0
    assert (await run("users", "create", "bob", "--password-file", "-", stdin=f"{PASSWORD}\n")).exit_code == 0
    assert "bob" in (await run("users", "list")).stdout
    granted = await run("users", "grant", "developer", "users/bob", "-o", "json")
    assert json.loads(granted.stdout)["name"] == "projects/acme/roleBindings/developer-bob"
    assert (await run("service-accounts", "create", "robot")).exit_code == 0
    assert (await run("api-keys", "create", "robot")).stdout == "lpk_good\n"
    await run("projects", "create", "other")
    assert (await run("projects", "use", "other")).exit_code == 0
    assert 'project = "other"' in (tmp_path / "profile.toml").read_text()
    assert (await run("projects", "use", "none")).exit_code == 15


@pytest.mark.integration
async def test_training_is_shown_until_it_ends(run: Run, world: SmallLepton, tmp_path: Path) -> None:
    images = np.zeros((4, 1, 2, 2), np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(4))
    training = asyncio.create_task(
        run(
            "train", "image_classifier", "--data", str(tmp_path), "--workers", "2", "--epochs", "3", "--pool", "fast",
            "--name", "digits", "-o", "json",
        )
    )  # fmt: skip
    await until(lambda: world.count("StreamLogs") and world.count("StreamMetrics"))
    world.lines[NAME].append(LogLine(offset=1, rank=1, text="hello [world]"))
    world.points[NAME].append(MetricPoint(offset=1, step=10, epoch=0, values={"loss": 0.5, "accuracy": 0.9}))
    world.table(Job).change(NAME, state=Job.RUNNING)
    package = "sha256:" + "2" * 64
    world.table(Job).change(NAME, state=Job.SUCCEEDED, metrics={"accuracy": 0.98}, package=package)
    ended = await training
    assert ended.exit_code == 0
    finished = json.loads(ended.stdout)
    assert finished["metrics"] == {"accuracy": 0.98}
    assert finished["recipe"]["epochs"] == 3
    assert finished["pools"] == ["pools/fast"]
    assert finished["dataset"] == f"sha256:{next(iter(world.artifacts)).rpartition('/')[2]}"
    for words in ("submitted projects/acme/jobs/digits", "[rank 1] hello [world]"):
        assert words in ended.stderr
    assert "loss 0.5000" not in ended.stderr, "a recipe's ranks print their epochs themselves"
    assert (await run("models", "register", "digits", "--job", "digits", "-o", "name")).stdout.endswith("versions/1\n")


async def test_a_failed_job_says_why(run: Run, world: SmallLepton) -> None:
    job = Job(name=NAME, state=Job.FAILED, error=JobError(message="out of memory", rank=1, log_tail=["Killed"]))
    world.table(Job).put(job)
    waited = await run("jobs", "wait", "digits")
    assert waited.exit_code == exits.FAILED
    assert "the job ended as FAILED: out of memory\n  [rank 1] Killed" in waited.stderr
    assert (await run("models", "register", "digits", "--job", "digits")).exit_code == 19


async def test_jobs_are_followed_cancelled_and_deleted(run: Run, world: SmallLepton) -> None:
    world.table(Job).put(Job(name=NAME, state=Job.RUNNING))
    world.lines[NAME] = [LogLine(offset=number, rank=number % 2, text=f"line {number}") for number in (1, 2, 3)]
    assert (await run("jobs", "logs", "digits", "--rank", "1")).stdout == "[rank 1] line 1\n[rank 1] line 3\n"
    lines = (await run("jobs", "logs", "digits", "-o", "json")).stdout.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["line 1", "line 2", "line 3"]
    refused = await run("jobs", "delete", "digits")
    assert (refused.exit_code, "lepton jobs cancel" in refused.stderr) == (19, True)
    watching = asyncio.create_task(run("jobs", "watch", "digits", "-o", "json"))
    await until(lambda: world.sent["WatchJobs"] >= 2)  # the job and the bookmark
    world.table(Job).change(NAME, state=Job.CANCELLED)
    watched = await watching
    states = [json.loads(line)["state"] for line in watched.stdout.splitlines()]
    assert states == ["RUNNING", "CANCELLED"]
    assert watched.exit_code == exits.FAILED
    assert (await run("jobs", "cancel", "digits", "--wait")).exit_code == 0
    assert (await run("jobs", "delete", "digits")).exit_code == 0


async def test_a_model_is_deployed_and_asked(run: Run, world: SmallLepton, tmp_path: Path) -> None:
    package = "sha256:" + "1" * 64
    for _ in range(2):
        await run("models", "register", "digits", "--package", package)
    assert "champion=1" in (await run("models", "alias", "digits", "champion", "1")).stdout
    name = "projects/acme/deployments/digits"
    deploying = asyncio.create_task(run("deploy", "digits:champion", "--replicas", "2", "--wait", "-o", "json"))
    await until(lambda: world.count("WatchDeployments"))
    world.table(Deployment).change(name, state=Deployment.DEGRADED, ready_replicas=1)
    world.table(Deployment).change(name, state=Deployment.READY, ready_replicas=2)
    deployed = await deploying
    assert deployed.exit_code == 0
    assert json.loads(deployed.stdout)["model_version"] == "projects/acme/models/digits/versions/1"
    assert "1/2 ready" in deployed.stderr
    assert "digits@1" in (await run("deployments", "list")).stdout
    assert (await run("deploy", "digits@2", "--name", "next", "-o", "name")).stdout.endswith("deployments/next\n")
    assert (await run("deploy", "digits@9")).exit_code == 15
    assert (await run("deploy", "a@b@c")).exit_code == exits.USAGE
    assert json.loads((await run("deployments", "scale", "digits", "-r", "3", "-o", "json")).stdout)["replicas"] == 3
    (tmp_path / "rows.json").write_text("[[1, 2, 3], [4, 5, 6]]")
    asked = await run("predict", "digits", "--data", str(tmp_path / "rows.json"), "-o", "json")
    assert json.loads(asked.stdout) == {"outputs": {"sum": [6.0, 15.0]}}
    (tmp_path / "bad.json").write_text("[[1, 2], [3]]")
    assert (await run("predict", "digits", "--data", str(tmp_path / "bad.json"))).exit_code == 13
    assert (await run("predict", "digits", "--data", str(tmp_path / "none.npz"))).exit_code == exits.FAILED
    assert (await run("deployments", "delete", "digits")).exit_code == 0
    assert len(world.table(ModelVersion).rows) == 2


@pytest.mark.integration
@pytest.mark.parametrize("kind", CLASSES.values(), ids=lambda kind: kind.__name__)
async def test_every_status_has_its_exit_code(run: Run, world: SmallLepton, kind: type[LeptonError]) -> None:
    world.fail("GetJob", kind("SOME_REASON", "It went wrong.", fields={"job.epochs": "must be > 0"}), times=99)
    failed = await run("jobs", "get", "digits", "--patience", "0")
    assert failed.exit_code == 10 + kind.code.value[0]
    assert exits.MEANINGS[failed.exit_code] == kind.code.name
    assert failed.stderr.startswith("error: It went wrong.\n") or failed.stderr.count("error: It went wrong.") == 1
    assert f"reason: SOME_REASON ({kind.code.name}, said by trainer.lepton)" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.integration
async def test_a_service_that_is_away_is_told_and_waited_for(run: Run, world: SmallLepton) -> None:
    world.table(Job).put(Job(name=NAME, state=Job.RUNNING))
    await world.kill("trainer")
    asking = asyncio.create_task(run("jobs", "get", "digits", "-o", "name"))
    await world.restart("trainer")
    answered = await asking
    assert (answered.exit_code, answered.stdout) == (0, f"{NAME}\n")
    await world.kill("trainer")
    failed = await run("jobs", "get", "digits", "--patience", "0.2")
    assert failed.exit_code == 24
    assert "try: lepton status" in failed.stderr


async def test_without_a_profile_it_says_how_to_get_one(run: Run, tmp_path: Path) -> None:
    failed = await run("jobs", "list", LEPTON_PROFILE=str(tmp_path / "none.toml"))
    assert failed.exit_code == 19
    assert "lepton up" in failed.stderr


def leaves(command: Any) -> Iterator[Any]:
    """The commands of a group, those of its groups too; a command that is none is its own."""
    if not hasattr(command, "commands"):
        yield command
    for each in getattr(command, "commands", {}).values():
        yield from leaves(each)


def test_every_command_explains_itself() -> None:
    for name in COMMANDS:
        for each in leaves(load(name)):
            assert each.help, name
            assert each.help.strip()[0].isupper()
            outputs = [parameter for parameter in each.params if parameter.name == "output"]
            assert bool(outputs) is (name not in ("up", "down", "status")), (name, each.name)
    started = time.process_time()
    told = CliRunner().invoke(app, ["--help"])
    assert told.exit_code == 0
    assert time.process_time() - started < 2
    for code in exits.MEANINGS:
        assert str(code) in told.stdout
    assert "Did you mean 'jobs'" in CliRunner().invoke(app, ["job"]).stderr
