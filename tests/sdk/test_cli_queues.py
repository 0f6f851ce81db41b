"""`lepton queues` and `lepton floating-resources` against servers in this process."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lepton.cli import exits
from lepton.cli.quotas import apply_quotas, shown_quota
from lepton.cli.root import app
from lepton.client import AsyncClient
from lepton.errors import Aborted
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.scheduler.v1.queue_pb2 import FloatingResource, Queue, Quota
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job
from tests.harness.small_lepton import PASSWORD, SmallLepton

Run = Callable[..., Coroutine[Any, Any, Any]]


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
            "LEPTON_HOME": None, "LEPTON_PROJECT": None, "LEPTON_TRACE": None,
        }  # fmt: skip
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), env=environment)

    return invoke


async def test_a_queue_is_created_shown_changed_and_deleted(run: Run, world: SmallLepton) -> None:
    created = await run(
        "queues", "create", "vision", "--parent", "research", "--weight", "2", "--quota", "fast/devices=16:8",
        "--quota", "memory=1Ti::512Gi", "--policy", "shortest-job-first", "--strict", "--member", "acme",
        "--member", "projects/other", "--project-limit", "devices=4", "--half-life", "3600", "--min-runtime", "30",
        "--aging", "600", "--no-preemption",
    )  # fmt: skip
    assert created.exit_code == 0, created.stderr
    queue = world.table(Queue).get("queues/vision")
    assert (queue.parent, queue.weight, queue.policy, queue.strictness) == (
        "queues/research", 2.0, Queue.SHORTEST_JOB_FIRST, Queue.STRICT,
    )  # fmt: skip
    assert [shown_quota(each) for each in queue.quotas] == ["memory=1.09951T::549.756G", "fast/devices=16:8"]
    assert (queue.quotas[1].nominal, queue.quotas[1].borrowing_limit) == (16_000, 8_000)
    assert not queue.quotas[1].HasField("lending_limit")
    assert list(queue.projects) == ["projects/acme", "projects/other"]
    assert (queue.usage_half_life_s, queue.min_runtime_s, queue.aging_s, queue.disable_preemption) == (
        3600, 30, 600, True,
    )  # fmt: skip
    changed = await run(
        "queues", "update", "vision", "--quota", "fast/devices=8", "--quota", "memory-", "--member", "other-",
        "--gate", "drain", "--best-effort", "--parent", "",
    )  # fmt: skip
    assert changed.exit_code == 0, changed.stderr
    queue = world.table(Queue).get("queues/vision")
    assert [shown_quota(each) for each in queue.quotas] == ["fast/devices=8"]
    assert (list(queue.projects), queue.stop_policy, queue.parent) == (["projects/acme"], Queue.HOLD_AND_DRAIN, "")
    assert (queue.weight, queue.strictness) == (2.0, Queue.BEST_EFFORT)
    assert (await run("queues", "update", "vision", "--gate", "open")).exit_code == 0
    assert not world.table(Queue).get("queues/vision").stop_policy
    assert (await run("queues", "delete", "vision")).stderr == "deleted vision\n"
    gone = await run("queues", "get", "vision")
    assert (gone.exit_code, "lepton queues list" in gone.stderr) == (15, True)


async def test_the_table_shows_what_waits_and_what_is_used(run: Run, world: SmallLepton) -> None:
    queue = Queue(name="queues/vision", parent="queues/research", pending_count=3, admitted_count=2, share=0.5)
    queue.use.add(quota=Quota(pool="pools/fast", resource="device_milli", nominal=16000), used=4000)
    world.table(Queue).put(queue)
    table = (await run("queues", "list")).stdout.splitlines()
    assert table[0].split() == [
        "NAME", "PARENT", "WEIGHT", "POLICY", "OPEN", "PENDING", "ADMITTED", "USED", "SHARE", "AGE",
    ]  # fmt: skip
    assert table[1].split() == [
        "vision", "research", "1", "FAIR_SHARE", "yes", "3", "2", "fast/devices", "4/16", "0.50", "-",
    ]  # fmt: skip
    shown = json.loads((await run("queues", "get", "vision", "-o", "json")).stdout)
    assert shown["pending_count"] == 3


async def test_queues_are_watched(world: SmallLepton) -> None:
    world.table(Queue).put(Queue(name="queues/vision"))
    async with AsyncClient(world.profile, user="admin", password=PASSWORD) as client, asyncio.timeout(20):
        seen = list[tuple[str, bool]]()
        async with aclosing(client.queues.watch_all()) as changes:
            async for change in changes:
                seen.append((change.resource.name, change.is_deleted))
                if len(seen) == 1:
                    world.table(Queue).put(Queue(name="queues/audio"))
                    world.table(Queue).remove("queues/vision")
                if len(seen) == 3:
                    break
    assert seen == [("queues/vision", False), ("queues/audio", False), ("queues/vision", True)]


@pytest.mark.parametrize("wrong", ["devices", "devices=", "gpus=3", "devices=1:2:3:4", "devices=x", "devices=-", "="])
async def test_a_quota_that_says_nothing_is_refused(run: Run, wrong: str) -> None:
    assert (await run("queues", "create", "vision", "--quota", wrong)).exit_code == exits.USAGE


async def test_an_update_of_nothing_is_refused(run: Run, world: SmallLepton) -> None:
    world.table(Queue).put(Queue(name="queues/vision"))
    assert (await run("queues", "update", "vision")).exit_code == exits.USAGE


def test_quotas_are_set_one_by_one() -> None:
    queue = Queue(quotas=[Quota(resource="cpu_milli", nominal=1000)])
    apply_quotas(queue.quotas, ["slow/network=100", "cpu=2:0"], "--quota")
    assert [shown_quota(each) for each in queue.quotas] == ["cpu=2:0", "slow/network=100"]


async def test_floating_resources(run: Run, world: SmallLepton) -> None:
    assert (await run("floating-resources", "create", "licences", "4")).exit_code == 0
    assert (await run("floating-resources", "update", "licences", "0")).exit_code == 0
    assert world.table(FloatingResource).get("floatingResources/licences").capacity == 0
    assert (await run("floating-resources", "list", "-o", "name")).stdout == "floatingResources/licences\n"
    assert (await run("floating-resources", "get", "licences")).stdout.splitlines()[1].split() == ["licences", "0", "0"]
    assert (await run("floating-resources", "delete", "licences")).exit_code == 0
    assert (await run("floating-resources", "get", "licences")).exit_code == 15


async def test_the_client_changes_a_queue_that_it_has_read(world: SmallLepton) -> None:
    async with AsyncClient(world.profile, user="admin", password=PASSWORD) as client:
        created = await client.queues.create("vision", Queue(weight=2.0))
        changed = await client.queues.update(Queue(name=created.name, weight=3.0, etag=created.etag), ["weight"])
        assert (changed.weight, [each.name async for each in client.queues.list()]) == (3.0, ["queues/vision"])
        with pytest.raises(Aborted):
            await client.queues.update(Queue(name=created.name, weight=4.0, etag=created.etag), ["weight"])
        await client.floating_resources.create("licences", 4)
        assert (await client.floating_resources.get("floatingResources/licences")).capacity == 4


async def test_a_job_says_where_it_waits_and_what_it_needs(run: Run, world: SmallLepton, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=np.zeros((4, 1, 2, 2), np.uint8), y=np.arange(4))
    submitted = await run(
        "train", "image_classifier", "--data", str(tmp_path / "images.npz"), "--name", "digits", "--no-wait",
        "--workers", "2", "--max-workers", "8", "--queue", "research", "--priority", "10", "--expected", "20m",
        "--floating", "licences=2", "--select", "tier=fast", "--tolerate", "lepton.dev/repair", "--no-preemptible",
    )  # fmt: skip
    assert submitted.exit_code == 0, submitted.stderr
    job = world.table(Job).get("projects/acme/jobs/digits")
    assert (job.queue, job.priority, job.expected_duration_s) == ("queues/research", 10, 1200)
    assert (job.workers.count, job.workers.max_count, job.disable_preemption) == (2, 8, True)
    assert dict(job.floating_resources) == {"floatingResources/licences": 2}
    assert (dict(job.node_selector), list(job.tolerated_taints)) == ({"tier": "fast"}, ["lepton.dev/repair"])


@pytest.mark.parametrize("wrong", [("--expected", "soon"), ("--floating", "licences"), ("--floating", "a=0")])
async def test_a_wish_that_says_nothing_is_refused(run: Run, wrong: tuple[str, str]) -> None:
    assert (await run("train", "image_classifier", *wrong, "--no-wait")).exit_code == exits.USAGE


async def test_a_model_is_served_from_a_queue_and_trimmed_to_a_floor(run: Run, world: SmallLepton) -> None:
    world.table(Model).put(Model(name="projects/acme/models/digits", latest_version=1))
    world.table(ModelVersion).put(ModelVersion(name="projects/acme/models/digits/versions/1"))
    served = await run(
        "deploy", "digits", "--replicas", "4", "--min-replicas", "1", "--queue", "production", "--priority", "100"
    )
    assert served.exit_code == 0, served.stderr
    deployment = world.table(Deployment).get("projects/acme/deployments/digits")
    assert (deployment.replicas, deployment.min_replicas) == (4, 1)
    assert (deployment.queue, deployment.priority) == ("queues/production", 100)
    assert (await run("deployments", "scale", "digits", "-r", "6")).exit_code == 0
    assert (await run("deployments", "scale", "digits", "-r", "8", "--min-replicas", "2")).exit_code == 0
    deployment = world.table(Deployment).get("projects/acme/deployments/digits")
    assert (deployment.replicas, deployment.min_replicas) == (8, 2)


async def test_a_workload_changes_its_place_in_the_queue(run: Run, world: SmallLepton) -> None:
    name = "projects/acme/workloads/digits-1"
    world.table(Workload).put(Workload(name=name, priority=3))
    world.table(Job).put(Job(name="projects/acme/jobs/digits", workload=name))
    moved = await run("workloads", "update", "digits", "--queue", "urgent", "--priority", "50", "--hold")
    assert moved.exit_code == 0, moved.stderr
    workload = world.table(Workload).get(name)
    assert (workload.queue, workload.priority, workload.hold) == ("queues/urgent", 50, True)
    assert (await run("workloads", "update", name, "--release", "--expected", "2h", "--queue", "")).exit_code == 0
    workload = world.table(Workload).get(name)
    assert (workload.queue, workload.priority, workload.hold) == ("", 50, False)
    assert workload.expected_duration_s == 7200
    assert (await run("workloads", "update", name)).exit_code == exits.USAGE
