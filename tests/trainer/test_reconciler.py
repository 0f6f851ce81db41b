"""Jobs get their workloads and follow them, whatever dies in between."""

import asyncio
import dataclasses
import functools
from contextlib import aclosing

import pytest

from chassis.election import Election
from chassis.etcd import EtcdKV
from lepton.errors import InvalidArgument, Unavailable
from lepton.names import JobName
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.store import LEADER, job_key
from services.trainer.workload import workload_request
from tests.harness.crashes import Steps
from tests.harness.etcd import EtcdCluster
from tests.trainer.conftest import World, start_request, workload_of


@pytest.fixture
def world(scheduled_world: World) -> World:
    return scheduled_world


async def cancel(world: World, job: Job) -> None:
    def ask(current: Job) -> None:
        current.state = Job.CANCELLING

    await world.jobs.change(JobName.parse(job.name), ask)


async def packaged(world: World, job: Job) -> None:
    def commit(current: Job) -> None:
        current.package = "sha256:" + "a" * 64

    await world.jobs.change(JobName.parse(job.name), commit)


async def test_a_job_follows_its_workload_to_its_end(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        name = (await world.scheduler.workload(workload_of(job))).name
        await world.scheduler.place(name, nodes=2)
        assert list((await world.in_state(job, Job.STARTING)).nodes) == ["pools/p/nodes/n1", "pools/p/nodes/n2"]
        await world.scheduler.run(name)
        assert (await world.in_state(job, Job.RUNNING)).HasField("start_time")
        await packaged(world, job)
        await world.scheduler.end(name, Workload.SUCCEEDED)
        ended = await world.in_state(job, Job.SUCCEEDED)
    assert ended.workload == name
    assert ended.progress.fraction == 1.0
    assert ended.HasField("end_time")


async def test_a_recipe_that_commits_no_package_has_failed(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        await world.scheduler.workload(workload_of(job))
        await world.scheduler.end(workload_of(job), Workload.SUCCEEDED)
        assert "package" in (await world.in_state(job, Job.FAILED)).error.message


async def test_a_lost_node_brings_the_job_back_to_pending_and_on_to_running(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        name = (await world.scheduler.workload(workload_of(job))).name
        await world.scheduler.place(name)
        await world.scheduler.run(name)
        await world.in_state(job, Job.RUNNING)
        await world.scheduler.change(name, state=Workload.PENDING, message="a node was lost", slices=())
        assert (await world.in_state(job, Job.PENDING)).message == "a node was lost"
        await world.scheduler.place(name, generation=2, nodes=3)
        await world.scheduler.run(name)
        await world.in_state(job, Job.RUNNING)
        workload = await world.scheduler.workload(name)
        await world.runs.start(start_request(job, 2, workload.uid))
        assert (await world.jobs.get(JobName.parse(job.name))).generation == 2


async def life(world: World, job: Job) -> None:
    """What happens to a workload, from its creation to its end."""
    name = workload_of(job)
    workload = await world.scheduler.workload(name)
    if workload.state == Workload.PENDING:
        await world.scheduler.place(name)
        await world.scheduler.run(name)
        await world.in_state(job, Job.RUNNING)
        await packaged(world, job)
        await world.scheduler.end(name, Workload.SUCCEEDED)
    await world.in_state(job, Job.SUCCEEDED)


@pytest.mark.parametrize("after", [False, True])
async def test_a_trainer_killed_at_any_step_leaves_one_workload_and_the_right_state(world: World, after: bool) -> None:
    killed = 0
    while True:
        job = await world.submit(f"digits-{killed}")
        living = asyncio.ensure_future(life(world, job))
        steps = Steps(killed + 1, after=after)
        was_killed = await world.killed_at(steps, functools.partial(world.in_state, job, Job.SUCCEEDED))
        async with world.reconciling("t2"):
            await living
        assert (await world.scheduler.names()).count(workload_of(job)) == 1
        if not was_killed:
            break
        killed += 1
    assert killed >= 3  # the creation, and two changes of state at the least
    assert len(await world.scheduler.names()) == killed + 1


@pytest.mark.parametrize("at", [1, 2])
async def test_a_creation_whose_answer_is_lost_is_repeated(world: World, at: int) -> None:
    world.scheduler.fail("CreateWorkload", Unavailable("TRY_AGAIN"), after=at == 2)
    job = await world.submit()
    async with world.reconciling():
        await world.scheduler.workload(workload_of(job))
        await world.job(job, lambda current: current.workload)
    assert await world.scheduler.names() == [workload_of(job)]


async def test_of_two_trainers_one_acts_and_the_other_takes_over(world: World) -> None:
    first = await world.submit("one")
    async with world.reconciling("t2") as follower, world.reconciling("t1") as leader:
        await world.scheduler.workload(workload_of(first))
        await world.job(first, lambda current: current.workload)
        stopped, other = (leader, "t2") if await Election(world.kv, LEADER, "x").leader() == "t1" else (follower, "t1")
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
        second = await world.submit("two")
        await world.job(second, lambda current: current.workload)
        assert await Election(world.kv, LEADER, "x").leader() == other
    assert sorted(await world.scheduler.names()) == sorted((workload_of(first), workload_of(second)))


async def test_a_leader_that_lost_its_place_writes_nothing(world: World) -> None:
    async with world.reconciling():
        job = await world.submit()
        await world.job(job, lambda current: current.workload)
        entry = await world.kv.get(LEADER)
        assert entry is not None
        # The guard of the lost leadership does not hold any more: nothing is noted until it leads again.
        world.kv.end_lease(entry.lease)
        await world.scheduler.place(workload_of(job))
        noted = await world.in_state(job, Job.STARTING)
        leader = await world.kv.get(LEADER)
    assert leader is not None
    assert leader.create_revision > entry.create_revision
    assert noted.state == Job.STARTING


async def test_a_job_cancelled_before_it_has_a_workload_never_gets_one(world: World) -> None:
    job = await world.submit()
    await cancel(world, job)
    async with world.reconciling():
        assert (await world.in_state(job, Job.CANCELLED)).HasField("end_time")
    assert await world.scheduler.names() == []


async def test_a_job_cancelled_while_its_workload_is_created_stops_it(world: World) -> None:
    job = await world.submit()
    # The answer is lost; by the time of the repeat the user has changed their mind.
    world.scheduler.fail("CreateWorkload", Unavailable("TRY_AGAIN"), after=True)
    async with world.reconciling():
        await world.scheduler.workload(workload_of(job))
        await cancel(world, job)
        await world.scheduler.workload(workload_of(job), lambda w: w.state == Workload.CANCELLING)
        await world.scheduler.end(workload_of(job), Workload.CANCELLED)
        await world.in_state(job, Job.CANCELLED)


async def test_a_running_job_is_cancelled_through_its_workload(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        await world.scheduler.workload(workload_of(job))
        await world.scheduler.place(workload_of(job))
        await world.scheduler.run(workload_of(job))
        await world.in_state(job, Job.RUNNING)
        await cancel(world, job)
        await world.scheduler.workload(workload_of(job), lambda w: w.state == Workload.CANCELLING)
        assert (await world.jobs.get(JobName.parse(job.name))).state == Job.CANCELLING
        await world.scheduler.end(workload_of(job), Workload.CANCELLED)
        await world.in_state(job, Job.CANCELLED)


async def test_a_job_that_ends_well_while_it_is_being_cancelled_has_succeeded(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        await world.scheduler.workload(workload_of(job))
        await packaged(world, job)
        await cancel(world, job)
        await world.scheduler.workload(workload_of(job), lambda w: w.state == Workload.CANCELLING)
        await world.scheduler.end(workload_of(job), Workload.SUCCEEDED)
        await world.in_state(job, Job.SUCCEEDED)


async def test_a_job_whose_workload_an_operator_deletes_has_failed(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        name = (await world.scheduler.workload(workload_of(job))).name
        await world.job(job, lambda current: current.workload)
        await world.scheduler.forget(name)
        failed = await world.in_state(job, Job.FAILED)
    assert "deleted" in failed.error.message


async def test_a_workload_deleted_before_the_trainer_noted_it_is_not_waited_for(world: World) -> None:
    job = await world.submit()
    await world.ledger.create(workload_request(job))  # by a leader that died before it could note it
    await world.scheduler.end(workload_of(job), Workload.CANCELLED)
    await world.ledger.delete(workload_of(job))
    async with world.reconciling():
        assert "deleted" in (await world.in_state(job, Job.FAILED)).message


async def test_a_workload_that_ended_and_was_deleted_while_no_trainer_ran_leaves_its_package(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        await world.job(job, lambda current: current.workload)
    await packaged(world, job)
    await world.scheduler.end(workload_of(job), Workload.SUCCEEDED)
    await world.ledger.delete(workload_of(job))
    async with world.reconciling():
        await world.in_state(job, Job.SUCCEEDED)


async def test_what_the_scheduler_will_never_take_fails_the_job_with_its_words(world: World) -> None:
    world.scheduler.fail("CreateWorkload", InvalidArgument("INVALID_FIELD", fields={"workload.groups": "are too many"}))
    job = await world.submit()
    async with world.reconciling():
        assert "too many" in (await world.in_state(job, Job.FAILED)).error.message


async def test_a_workload_made_by_a_leader_that_had_lost_its_place_is_stopped(world: World) -> None:
    job = await world.submit()
    await cancel(world, job)
    async with world.reconciling():
        await world.in_state(job, Job.CANCELLED)
        await world.ledger.create(workload_request(job))  # its request was still on its way
        await world.scheduler.workload(workload_of(job), lambda w: w.state == Workload.CANCELLING)


async def test_the_workload_of_a_deleted_job_is_deleted(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        await world.job(job, lambda current: current.workload)
        await world.scheduler.end(workload_of(job), Workload.FAILED, "it broke")
        assert (await world.in_state(job, Job.FAILED)).error.message == "it broke"
        await world.jobs.forget(JobName.parse(job.name), "")
        await world.scheduler.gone(workload_of(job))


async def test_a_workload_of_another_project_that_names_the_job_is_left_alone(world: World) -> None:
    """The scheduler takes none from anybody; one that is there all the same is nothing of the job's."""
    request = workload_request(await world.submit())
    foreign = CreateWorkloadRequest()
    foreign.CopyFrom(request)
    foreign.parent, foreign.request_id = "projects/other", ""
    with pytest.raises(InvalidArgument):
        await world.ledger.create(foreign)
    for group in foreign.workload.groups:
        group.program.torch.job = "projects/other/jobs/own"
    foreign.workload.owner = "projects/other/jobs/own"
    created = await world.ledger.create(foreign)
    assert created is not None
    await world.scheduler.change(created.name, owner=request.workload.owner, groups=request.workload.groups)
    async with world.reconciling():
        await world.scheduler.workload(f"projects/acme/workloads/{request.workload_id}")
        last = await world.submit("last")
        await world.job(last, lambda current: current.workload)
    assert (await world.scheduler.workload(created.name)).state == Workload.PENDING


async def test_a_broken_watch_loses_nothing(world: World) -> None:
    job = await world.submit()
    async with world.reconciling():
        await world.job(job, lambda current: current.workload)
        await world.scheduler.kv.compact((await world.scheduler.kv.list("/")).revision)
        world.scheduler.fail("WatchWorkloads", Unavailable("DRAINING"), at=world.scheduler.calls["WatchWorkloads"])
        await world.scheduler.place(workload_of(job))
        await world.in_state(job, Job.STARTING)


async def test_the_ledger_tells_what_vanished_while_history_was_lost(world: World) -> None:
    job = await world.submit()
    created = await world.ledger.create(workload_request(job))
    assert created is not None
    async with aclosing(world.ledger.watch()) as changes:
        assert (await anext(changes)).workload.name == created.name
        bookmark = await anext(changes)
        await world.scheduler.end(created.name, Workload.FAILED)
        assert (await anext(changes)).workload.state == Workload.FAILED
        next_change = asyncio.ensure_future(anext(changes))
        world.scheduler.fail("WatchWorkloads", Unavailable("DRAINING"), at=1)
        await world.ledger.delete(created.name)
        await world.scheduler.kv.put("/lepton/scheduler/workloads/acme/other", b"")
        await world.scheduler.kv.compact((await world.scheduler.kv.list("/")).revision)
        seen = [await next_change, await anext(changes)]
    assert bookmark.workload.name == ""
    assert created.name in {change.workload.name for change in seen if change.event == change.DELETED}


async def test_every_job_lies_at_its_key(world: World) -> None:
    job = await world.submit()
    assert await world.kv.get(job_key(JobName.parse(job.name))) is not None


@pytest.mark.integration
async def test_over_etcd_a_killed_trainer_is_followed_by_another(world: World, own_etcd: EtcdCluster) -> None:
    async with EtcdKV(own_etcd.endpoints) as kv:
        mesh = dataclasses.replace(world, kv=kv)
        killed = 0
        for at in (1, 2, 3):
            job = await mesh.submit(f"digits-{at}")
            living = asyncio.ensure_future(life(mesh, job))
            killed += await mesh.killed_at(Steps(at, after=True), functools.partial(mesh.in_state, job, Job.SUCCEEDED))
            async with mesh.reconciling("t2"):
                await living
    assert killed == 3
    assert len(await world.scheduler.names()) == 3
