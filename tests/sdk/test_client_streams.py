"""Watches, waits and logs that go on over killed services and lost history."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from lepton.client import AsyncClient
from lepton.errors import DeadlineExceeded, NotFound, Unauthenticated, Unavailable
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers
from lepton.trainer.v1.trainer_service_pb2 import LogLine, MetricPoint
from tests.harness.small_lepton import PASSWORD, SmallLepton
from tests.harness.wait import until

pytestmark = pytest.mark.integration

JOB = Job(recipe=Recipe(name="image_classifier"), workers=Workers(count=2))
NAME = "projects/acme/jobs/digits"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
async def client(world: SmallLepton) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(world.profile, user="admin", password=PASSWORD, patience_s=20) as signed_in:
        yield signed_in


async def test_a_watch_tells_what_is_and_then_every_change(client: AsyncClient, world: SmallLepton) -> None:
    await client.jobs.create("digits", JOB)
    async with aclosing(client.jobs.watch_all()) as changes:
        first = await anext(changes)
        assert (first.resource.name, first.is_deleted) == (NAME, False)
        world.table(Job).change(NAME, state=Job.CANCELLED)
        assert (await anext(changes)).resource.state == Job.CANCELLED
        world.table(Job).remove(NAME)
        gone = await anext(changes)
        assert (gone.resource.name, gone.is_deleted) == (NAME, True)


async def test_a_watch_goes_on_where_it_stood_after_a_kill(client: AsyncClient, world: SmallLepton) -> None:
    jobs = world.table(Job)
    await client.jobs.create("digits", JOB)
    await client.jobs.create("other", JOB)
    told: list[tuple[str, int]] = []

    async def watch() -> None:
        async for change in client.jobs.watch_all():
            told.append((change.resource.name[-6:], change.resource.state))
            if change.resource.state == Job.SUCCEEDED:
                return

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        await until(lambda: len(told) == 2)
        jobs.change(NAME, state=Job.STARTING)
        await until(lambda: len(told) == 3)
        await world.kill("trainer")
        jobs.change(NAME, state=Job.RUNNING)  # while nobody can hear it
        await world.restart("trainer")
        await until(lambda: len(told) == 4)
        jobs.change(NAME, state=Job.SUCCEEDED)
    states = [state for name, state in told if name == "digits"]
    assert states == [Job.PENDING, Job.STARTING, Job.RUNNING, Job.SUCCEEDED]
    assert len(told) == 5
    assert world.requests("WatchJobs")[-1].revision > 0


async def test_a_broken_initial_state_is_begun_again_without_repeating(client: AsyncClient, world: SmallLepton) -> None:
    for number in range(3):
        await client.jobs.create(f"job-{number}", JOB)
    world.fail("WatchJobs", Unavailable("DRAINING"), after=True, times=2)
    async with aclosing(client.jobs.watch_all()) as changes:
        assert [(await anext(changes)).resource.name[-1] for _ in range(3)] == list("012")
    assert [request.revision for request in world.requests("WatchJobs")] == [0, 0, 0]


async def test_lost_history_is_made_up_from_the_present_state(client: AsyncClient, world: SmallLepton) -> None:
    jobs = world.table(Job)
    for job_id in ("changed", "deleted", "same"):
        await client.jobs.create(job_id, JOB)
    async with aclosing(client.jobs.watch_all()) as changes:
        for _ in range(3):
            await anext(changes)
        following = asyncio.ensure_future(anext(changes))
        await until(lambda: not following.done() and world.count("WatchJobs") == 1)
        jobs.change("projects/acme/jobs/same", display_name="one more")
        assert (await following).resource.display_name == "one more"
        following = asyncio.ensure_future(anext(changes))
        await world.kill("trainer")
        jobs.change("projects/acme/jobs/changed", state=Job.RUNNING)
        jobs.remove("projects/acme/jobs/deleted")
        await client.projects.create("noise")
        jobs.compact()
        await world.restart("trainer")
        changed, deleted = await following, await anext(changes)
    assert (changed.resource.name, changed.resource.state) == ("projects/acme/jobs/changed", Job.RUNNING)
    assert (deleted.resource.name, deleted.is_deleted) == ("projects/acme/jobs/deleted", True)


async def test_a_revision_from_earlier_is_watched_from(client: AsyncClient, world: SmallLepton) -> None:
    await client.jobs.create("digits", JOB)
    revision = world.log.revision
    world.table(Job).change(NAME, state=Job.RUNNING)
    async with aclosing(client.jobs.watch_all(revision=revision)) as changes:
        assert (await anext(changes)).resource.state == Job.RUNNING


async def test_a_wait_outlives_killed_services(client: AsyncClient, world: SmallLepton) -> None:
    await client.jobs.create("digits", JOB)
    waiting = asyncio.create_task(client.jobs.wait("digits", timeout_s=20))
    for _ in range(2):
        before = world.count("WatchJobs")
        await until(lambda: world.count("WatchJobs") > before or before)  # noqa: B023 - runs at once
        await world.kill("trainer")
        await world.kill("auth")
        await world.restart("trainer")
        await world.restart("auth")
    world.table(Job).change(NAME, state=Job.FAILED)
    assert (await waiting).state == Job.FAILED


async def test_a_wait_for_a_state_ends_with_the_job(client: AsyncClient, world: SmallLepton) -> None:
    await client.jobs.create("digits", JOB)
    running = asyncio.create_task(client.jobs.wait("digits", states=Job.RUNNING, timeout_s=10))
    some = asyncio.create_task(client.jobs.wait("digits", until=lambda job: job.progress.step > 5, timeout_s=10))
    await until(lambda: world.count("WatchJobs") == 2)
    world.table(Job).change(NAME, state=Job.RUNNING)
    assert (await running).state == Job.RUNNING
    world.table(Job).change(NAME, state=Job.CANCELLED)
    assert (await some).state == Job.CANCELLED


async def test_waiting_for_what_is_not_there_or_goes_away(client: AsyncClient, world: SmallLepton) -> None:
    with pytest.raises(NotFound, match="JOB_NOT_FOUND"):
        await client.jobs.wait("digits", timeout_s=5)
    await client.jobs.create("digits", JOB)
    with pytest.raises(DeadlineExceeded, match="PENDING"):
        await client.jobs.wait("digits", timeout_s=0.3)
    waiting = asyncio.create_task(client.jobs.wait("digits", timeout_s=5))
    before = world.count("GetJob")
    await until(lambda: world.count("GetJob") > before)
    world.table(Job).remove(NAME)  # perhaps before the watch begins
    with pytest.raises(NotFound):
        await waiting


async def test_a_deployment_is_awaited_and_then_its_end(client: AsyncClient, world: SmallLepton) -> None:
    name = "projects/acme/deployments/digits"
    await client.deployments.create("digits", "projects/acme/models/digits/versions/1", replicas=2)
    waiting = asyncio.create_task(client.deployments.wait("digits", timeout_s=10))
    await until(lambda: world.count("WatchDeployments"))
    world.table(Deployment).change(name, state=Deployment.READY, ready_replicas=2)
    assert (await waiting).ready_replicas == 2
    await client.deployments.delete("digits")
    gone = asyncio.create_task(client.deployments.wait_deleted("digits", timeout_s=10))
    seen = [each.state async for each in _until_deleting(client)]
    world.table(Deployment).remove(name)
    await gone
    assert seen == [Deployment.DELETING]
    await client.deployments.wait_deleted("digits", timeout_s=10)


async def _until_deleting(client: AsyncClient) -> AsyncIterator[Deployment]:
    async with aclosing(client.deployments.watch("digits")) as states:
        async for each in states:
            yield each
            return


async def test_a_workload_is_watched_among_others(client: AsyncClient, world: SmallLepton) -> None:
    for each in ("one", "two"):
        world.table(Workload).put(Workload(name=f"projects/acme/workloads/{each}", state=Workload.RUNNING))
    waiting = asyncio.create_task(client.workloads.wait("two", timeout_s=10))
    await until(lambda: world.count("WatchWorkloads"))
    world.table(Workload).change("projects/acme/workloads/one", state=Workload.FAILED)
    world.table(Workload).change("projects/acme/workloads/two", state=Workload.SUCCEEDED)
    assert (await waiting).state == Workload.SUCCEEDED


async def test_logs_and_metrics_go_on_behind_the_last_that_came(client: AsyncClient, world: SmallLepton) -> None:
    await client.jobs.create("digits", JOB)
    lines: list[str] = []
    steps: list[int] = []

    async def follow_logs() -> None:
        async for line in client.jobs.logs("digits", follow=True):
            lines.append(line.text)  # noqa: PERF401 - others look at it meanwhile

    async def follow_metrics() -> None:
        async for point in client.jobs.metrics("digits", follow=True):
            steps.append(point.step)  # noqa: PERF401 - others look at it meanwhile

    def say(number: int) -> None:
        world.lines[NAME].append(LogLine(offset=number, text=f"line {number}", rank=number % 2))
        world.points[NAME].append(MetricPoint(offset=number, step=10 * number))
        world.log.ring()

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow_logs())
        tasks.create_task(follow_metrics())
        say(1)
        await until(lambda: len(lines) == len(steps) == 1)
        await world.kill("trainer")
        say(2)
        await world.restart("trainer")
        await until(lambda: len(lines) == len(steps) == 2)
        world.fail("StreamLogs", Unauthenticated("TOKEN_REVOKED"))
        await world.kill("trainer")
        say(3)
        await world.restart("trainer")
        await until(lambda: len(lines) == len(steps) == 3)
        world.table(Job).change(NAME, state=Job.SUCCEEDED)
    assert lines == ["line 1", "line 2", "line 3"]
    assert steps == [10, 20, 30]
    assert [line.offset async for line in client.jobs.logs("digits", ranks=[1], offset=1)] == [3]


async def test_following_gives_up_when_patience_ends(world: SmallLepton) -> None:
    async with AsyncClient(world.profile, api_key="lpk_good", patience_s=0.3) as client:
        await client.jobs.create("digits", JOB)
        following = asyncio.create_task(anext(client.jobs.logs("digits", follow=True)))
        await until(lambda: world.count("StreamLogs"))
        await world.kill("trainer")
        with pytest.raises(Unavailable):
            await following
