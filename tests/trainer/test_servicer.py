"""The trainer's public methods, as a client sees them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chassis.paging import Pager
from lepton.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    LeptonError,
    NotFound,
    OutOfRange,
    PermissionDenied,
)
from lepton.names import JobName
from lepton.trainer.v1 import trainer_service_pb2 as pb
from lepton.trainer.v1.job_pb2 import CheckpointPolicy, Job
from lepton.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub, add_TrainerServiceServicer_to_server
from services.trainer import endings
from services.trainer.servicer import TrainerServicer
from services.trainer.store import PAGE_KEY
from tests.harness.mesh import Mesh, serving
from tests.trainer.conftest import World, job_request
from tests.trainer.test_reports import failed, line, measured, send
from tests.trainer.test_runs import commit

PROJECT = "projects/acme"


class Trainer:
    """A trainer's server and a client of it."""

    def __init__(self, world: World, mesh: Mesh, stub: Any) -> None:
        self.world, self.mesh, self.stub = world, mesh, stub
        self.dataset = ""

    async def create(self, job_id: str = "digits", **fields: Any) -> Job:
        job: Job = await self.stub.CreateJob(job_request(job_id, **{"dataset": self.dataset, **fields}))
        return job

    async def end(self, job: Job, state: Any = Job.SUCCEEDED) -> None:
        def end(current: Job) -> None:
            current.state = state
            current.end_time.GetCurrentTime()

        await self.world.jobs.change(JobName.parse(job.name), end)

    @asynccontextmanager
    async def signed_in(self, user: str) -> AsyncIterator[Any]:
        async with self.mesh.client(user) as channel:
            yield TrainerServiceStub(channel)


@pytest.fixture
async def trainer(world: World) -> AsyncIterator[Trainer]:
    servicer = TrainerServicer(world.kv, world.artifacts, world.journals, await Pager.open(world.kv, PAGE_KEY))
    async with serving((add_TrainerServiceServicer_to_server, servicer)) as mesh, mesh.client() as channel:
        found = Trainer(world, mesh, TrainerServiceStub(channel))
        found.dataset = await world.artifacts.put_bytes("acme", b"data")
        yield found


async def test_a_created_job_is_read_and_listed(trainer: Trainer) -> None:
    job = await trainer.create()
    assert (job.name, job.state) == (f"{PROJECT}/jobs/digits", Job.PENDING)
    assert await trainer.stub.GetJob(pb.GetJobRequest(name=job.name)) == job
    assert list((await trainer.stub.ListJobs(pb.ListJobsRequest(parent=PROJECT))).jobs) == [job]


async def test_a_repeat_gets_the_first_answer_and_another_job_of_the_name_none(trainer: Trainer) -> None:
    request = job_request(dataset=trainer.dataset)
    first = await trainer.stub.CreateJob(request)
    assert await trainer.stub.CreateJob(request) == first
    with pytest.raises(AlreadyExists, match="JOB_ALREADY_EXISTS"):
        await trainer.create()
    request.job.priority = 7
    with pytest.raises(AlreadyExists, match="IDEMPOTENCY_KEY_REUSED"):
        await trainer.stub.CreateJob(request)


async def test_the_same_request_many_times_at_once_makes_one_job(trainer: Trainer) -> None:
    request = job_request(dataset=trainer.dataset)
    answers = await asyncio.gather(*(trainer.stub.CreateJob(request) for _ in range(10)))
    assert len({answer.uid for answer in answers}) == 1


async def test_data_that_is_not_there_is_not_trained_on(trainer: Trainer) -> None:
    with pytest.raises(NotFound, match="ARTIFACT_NOT_FOUND"):
        await trainer.create(dataset="sha256:" + "0" * 64)
    # Nor what another project has.
    foreign = await trainer.world.artifacts.put_bytes("other", b"secret")
    with pytest.raises(NotFound, match="ARTIFACT_NOT_FOUND"):
        await trainer.create(dataset=foreign)
    assert not (await trainer.stub.ListJobs(pb.ListJobsRequest(parent=PROJECT))).jobs


async def outcome(call: Any) -> tuple[Any, ...]:
    try:
        return (await call,)
    except LeptonError as error:
        return (type(error), error.reason, error.message, error.metadata, error.fields)


@pytest.mark.parametrize(
    ("method", "request_type", "field"),
    [
        ("GetJob", pb.GetJobRequest, "name"),
        ("CancelJob", pb.CancelJobRequest, "name"),
        ("DeleteJob", pb.DeleteJobRequest, "name"),
        ("ListCheckpoints", pb.ListCheckpointsRequest, "parent"),
    ],
)
async def test_a_foreign_job_is_exactly_an_absent_one(
    trainer: Trainer, method: str, request_type: Any, field: str
) -> None:
    async with trainer.signed_in("users/bob") as bob:

        async def ask() -> tuple[Any, ...]:
            return await outcome(getattr(bob, method)(request_type(**{field: f"{PROJECT}/jobs/digits"})))

        absent = await ask()
        await trainer.create()
        assert await ask() == absent
    assert absent[0] is NotFound


async def test_a_viewer_reads_and_does_not_change(trainer: Trainer) -> None:
    job = await trainer.create()
    async with trainer.signed_in("users/carol") as carol:
        assert (await carol.GetJob(pb.GetJobRequest(name=job.name))).uid == job.uid
        with pytest.raises(PermissionDenied):
            await carol.CancelJob(pb.CancelJobRequest(name=job.name))


async def test_jobs_are_listed_in_pages_of_one_moment(trainer: Trainer) -> None:
    for number in range(5):
        await trainer.create(f"job-{number}")
    first = await trainer.stub.ListJobs(pb.ListJobsRequest(parent=PROJECT, page_size=2))
    await trainer.create("job-2a")
    seen = [job.name for job in first.jobs]
    token = first.next_page_token
    while token:
        page = await trainer.stub.ListJobs(pb.ListJobsRequest(parent=PROJECT, page_size=2, page_token=token))
        seen += [job.name for job in page.jobs]
        token = page.next_page_token
    assert seen == [f"{PROJECT}/jobs/job-{number}" for number in range(5)]


async def test_cancelling_asks_and_again_changes_nothing(trainer: Trainer) -> None:
    job = await trainer.create()
    asked = await trainer.stub.CancelJob(pb.CancelJobRequest(name=job.name))
    assert asked.state == Job.CANCELLING
    assert await trainer.stub.CancelJob(pb.CancelJobRequest(name=job.name)) == asked
    await trainer.end(job)
    assert (await trainer.stub.CancelJob(pb.CancelJobRequest(name=job.name))).state == Job.SUCCEEDED


async def test_only_what_is_over_is_deleted_with_all_it_left(trainer: Trainer) -> None:
    job = await trainer.create()
    with pytest.raises(FailedPrecondition, match="JOB_NOT_ENDED"):
        await trainer.stub.DeleteJob(pb.DeleteJobRequest(name=job.name))
    await trainer.world.opened(job)
    await send(trainer.world, job, line(1))
    await commit(trainer.world, job, 10)
    await trainer.end(job)
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        await trainer.stub.DeleteJob(pb.DeleteJobRequest(name=job.name, etag=job.etag))
    await trainer.stub.DeleteJob(pb.DeleteJobRequest(name=job.name))
    with pytest.raises(NotFound):
        await trainer.stub.GetJob(pb.GetJobRequest(name=job.name))
    assert (await trainer.world.kv.list("/lepton/trainer/checkpoints/")).entries == ()
    assert (await trainer.world.kv.list("/lepton/trainer/runs/")).entries == ()
    assert await trainer.world.journals.of(job.uid).read(0) == []
    assert (await trainer.create()).uid != job.uid


async def test_checkpoints_come_newest_first_over_all_pages(trainer: Trainer) -> None:
    job = await trainer.create(checkpoint_policy=CheckpointPolicy(keep_latest=10))
    await trainer.world.opened(job)
    for step in range(1, 6):
        await commit(trainer.world, job, step)
    seen, token = [], ""
    while True:
        request = pb.ListCheckpointsRequest(parent=job.name, page_size=2, page_token=token)
        page = await trainer.stub.ListCheckpoints(request)
        seen += [one.step for one in page.checkpoints]
        if not (token := page.next_page_token):
            break
    assert seen == [5, 4, 3, 2, 1]


async def test_a_watch_shows_what_is_then_what_changes_and_goes_on_from_a_bookmark(trainer: Trainer) -> None:
    event = pb.WatchJobsResponse
    job = await trainer.create()
    stream = trainer.stub.WatchJobs(pb.WatchJobsRequest(parent=PROJECT))
    initial, bookmark = await stream.read(), await stream.read()
    assert (initial.event, initial.job) == (event.CHANGED, job)
    assert bookmark.event == event.BOOKMARK
    stream.cancel()
    await trainer.stub.CancelJob(pb.CancelJobRequest(name=job.name))
    await trainer.end(job)
    await trainer.stub.DeleteJob(pb.DeleteJobRequest(name=job.name))
    stream = trainer.stub.WatchJobs(pb.WatchJobsRequest(parent=PROJECT, revision=bookmark.revision))
    seen: list[pb.WatchJobsResponse] = []
    while not seen or seen[-1].event != event.DELETED:
        seen.append(await stream.read())
    stream.cancel()
    states = [each.job.state for each in seen if each.event == event.CHANGED]
    assert states == [Job.CANCELLING, Job.SUCCEEDED]
    assert seen[-1].job == Job(name=job.name)


async def test_a_watch_of_one_job_shows_no_other(trainer: Trainer) -> None:
    await trainer.create("a")
    await trainer.create("ab")
    stream = trainer.stub.WatchJobs(pb.WatchJobsRequest(parent=PROJECT, name=f"{PROJECT}/jobs/a"))
    assert (await stream.read()).job.name == f"{PROJECT}/jobs/a"
    assert (await stream.read()).event == pb.WatchJobsResponse.BOOKMARK
    stream.cancel()


async def test_a_watch_of_a_job_of_another_project_finds_none(trainer: Trainer) -> None:
    with pytest.raises(NotFound):
        await trainer.stub.WatchJobs(pb.WatchJobsRequest(parent=PROJECT, name="projects/other/jobs/a")).read()


async def test_a_watch_from_lost_history_says_so(trainer: Trainer) -> None:
    await trainer.create("a")
    await trainer.create("b")
    await trainer.world.kv.compact((await trainer.world.kv.list("/")).revision)
    with pytest.raises(OutOfRange, match="REVISION_COMPACTED"):
        await trainer.stub.WatchJobs(pb.WatchJobsRequest(parent=PROJECT, revision=1)).read()


async def logged(trainer: Trainer, job: Job, **fields: Any) -> list[str]:
    async with asyncio.timeout(10):
        stream = trainer.stub.StreamLogs(pb.StreamLogsRequest(name=job.name, **fields))
        return [entry.text async for answer in stream for entry in answer.lines]


async def test_logs_are_read_by_offset_and_rank(trainer: Trainer) -> None:
    job = await trainer.create()
    await trainer.world.opened(job)
    await send(trainer.world, job, line(1, "a"), measured(2, 1, loss=1.0), line(3, "b"))
    await send(trainer.world, job, line(1, "c"), rank=1)
    assert await logged(trainer, job) == ["a", "b", "c"]
    assert await logged(trainer, job, offset=1) == ["b", "c"]
    assert await logged(trainer, job, ranks=[1]) == ["c"]
    points = trainer.stub.StreamMetrics(pb.StreamMetricsRequest(name=job.name))
    assert [point.step async for answer in points for point in answer.points] == [1]


async def test_a_followed_log_ends_with_the_jobs_last_line(trainer: Trainer) -> None:
    job = await trainer.create()
    await trainer.world.opened(job)
    following = asyncio.ensure_future(logged(trainer, job, follow=True))
    for number in range(1, 20):
        await send(trainer.world, job, line(number, str(number)))
    await trainer.end(job)
    assert await following == [str(number) for number in range(1, 20)]
    assert await logged(trainer, job, follow=True) == [str(number) for number in range(1, 20)]


async def test_a_followed_log_of_a_failed_job_waits_for_the_last_words(trainer: Trainer) -> None:
    job = await trainer.create()
    await trainer.world.opened(job)
    following = asyncio.ensure_future(logged(trainer, job, follow=True))
    await send(trainer.world, job, line(1, "before"))
    await trainer.end(job, Job.FAILED)
    # The trainer was behind: the agent has reported the rank's end, and delivers its lines now.
    await send(trainer.world, job, line(2, "Traceback"), failed(3))
    assert await following == ["before", "Traceback"]


async def test_a_failed_job_whose_ranks_say_nothing_does_not_hold_its_followers(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "_LAST_WORDS_S", 0.05)
    job = await trainer.create()
    await trainer.end(job, Job.FAILED)
    assert await logged(trainer, job, follow=True) == []


async def test_a_followed_log_ends_when_its_job_is_deleted_even_if_another_takes_the_name(trainer: Trainer) -> None:
    job = await trainer.create()
    following = asyncio.ensure_future(logged(trainer, job, follow=True))
    await trainer.end(job, Job.CANCELLED)
    await trainer.stub.DeleteJob(pb.DeleteJobRequest(name=job.name))
    await trainer.create()
    assert await following == []


async def test_a_followed_log_survives_lost_history(trainer: Trainer) -> None:
    job = await trainer.create()
    following = asyncio.ensure_future(logged(trainer, job, follow=True))
    for number in range(5):
        await trainer.world.kv.put("/elsewhere", str(number).encode())
        await trainer.world.kv.compact((await trainer.world.kv.list("/")).revision)
    await trainer.end(job)
    assert await following == []


@pytest.mark.parametrize("name", ["", "projects/acme/jobs/", "jobs/a"])
async def test_a_name_that_is_none_is_said_to_be(trainer: Trainer, name: str) -> None:
    async with trainer.signed_in("users/root") as root:
        with pytest.raises((InvalidArgument, NotFound)):
            await root.GetJob(pb.GetJobRequest(name=name))
