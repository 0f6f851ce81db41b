"""What agents report: journaled once, committed when it is current, told to the job at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chassis import kv as store
from lepton.errors import PermissionDenied
from lepton.internal.v1 import run_report_pb2 as report
from lepton.internal.v1.run_report_pb2_grpc import RunReportServiceStub, add_RunReportServiceServicer_to_server
from lepton.names import JobName
from lepton.trainer.v1.job_pb2 import Job, JobError
from services.trainer.reports import RunReportServicer
from services.trainer.runs import Runs
from services.trainer.store import JobStore
from tests.harness.crashes import Crash, MortalKV, Steps
from tests.harness.mesh import Mesh, serving
from tests.trainer.conftest import World, start_request
from tests.trainer.test_runs import written


def line(sequence: int, text: str = "hello") -> report.RunEvent:
    return report.RunEvent(sequence=sequence, output=report.OutputLine(text=text))


def measured(sequence: int, step: int, **values: float) -> report.RunEvent:
    return report.RunEvent(sequence=sequence, measurement=report.Measurement(step=step, total_steps=100, values=values))


def failed(sequence: int, message: str = "ValueError: no") -> report.RunEvent:
    failure = report.RankFailure(exit_code=1, message=message, log_tail=[f"line {at}" for at in range(30)])
    return report.RunEvent(sequence=sequence, failure=failure)


async def send(
    world: World, job: Job, *events: report.RunEvent, generation: int = 1, rank: int = 0
) -> report.ReportRunResponse:
    async def requests() -> AsyncIterator[report.ReportRunRequest]:
        yield report.ReportRunRequest(job=job.name, generation=generation, rank=rank, events=events)

    answers = [answer async for answer in world.reports.ReportRun(requests(), None)]
    return answers[0]


async def texts(world: World, job: Job) -> list[str]:
    return [entry["text"] for entry in await world.journals.of(job.uid).read(0) if "text" in entry]


async def current(world: World, job: Job) -> Job:
    return await world.jobs.get(JobName.parse(job.name))


async def test_a_batch_is_stored_and_answered(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    answer = await send(world, job, line(1), measured(2, 10, loss=0.5, samples_per_s=7.0), line(3, "bye"))
    assert (answer.sequence, list(answer.refused)) == (3, [])
    assert await texts(world, job) == ["hello", "bye"]
    progress = (await current(world, job)).progress
    assert (progress.step, progress.total_steps, progress.samples_per_s) == (10, 100, 7.0)
    assert (await current(world, job)).metrics["loss"] == 0.5


async def test_progress_never_goes_back_within_a_generation(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    await send(world, job, measured(1, 20, loss=0.1))
    await send(world, job, measured(1, 10, loss=0.9), rank=1)
    assert (await current(world, job)).progress.step == 20
    assert (await current(world, job)).metrics["loss"] == 0.1


async def test_a_failed_rank_is_the_jobs_error_before_the_job_has_ended(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    await send(world, job, line(1), failed(2), rank=3)
    error = (await current(world, job)).error
    assert (error.message, error.rank, len(error.log_tail), error.log_tail[-1]) == ("ValueError: no", 3, 20, "line 29")


async def test_a_rank_that_lags_is_shown(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    servicer = world.reports  # what it has heard it keeps in memory
    for turn in range(1, 5):
        for rank, busy_s in ((0, 0.1), (1, 0.4), (2, 0.1)):
            pace = report.RankPace(step=turn, step_s=0.5, busy_s=busy_s, node=f"n{rank}")
            event = report.RunEvent(sequence=turn, pace=pace)
            event.time.FromSeconds(1000 + 2 * turn)
            await servicer._take(report.ReportRunRequest(job=job.name, generation=1, rank=rank, events=[event]))
    stragglers = (await current(world, job)).stragglers
    assert [(each.rank, each.node, each.slowdown) for each in stragglers] == [(1, "n1", 4.0)]


async def test_a_failure_is_told_whole(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    event = failed(1, "CUDA out of memory")
    setattr(event.failure, "class", "OOM_DEVICE")
    event.failure.node, event.failure.advice, event.failure.step = "n3", "halve --batch-size", 12
    await send(world, job, event, rank=3)
    after = await current(world, job)
    assert list(after.failures) == [after.error]
    assert getattr(after.error, "class") == JobError.OOM_DEVICE
    assert (after.error.node, after.error.advice, after.error.step) == ("n3", "halve --batch-size", 12)
    assert after.message == "rank 3 on n3 failed (OOM_DEVICE): CUDA out of memory"


async def test_the_first_rank_that_failed_is_the_one_that_is_told(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    await send(world, job, failed(1, "the cause"), rank=3)
    await send(world, job, failed(1, "connection reset"), rank=0)
    assert (await current(world, job)).error.message == "the cause"


async def test_a_failure_told_after_the_jobs_end_still_says_why(world: World) -> None:
    job = await world.submit()
    await world.opened(job)

    def end(ended: Job) -> None:
        ended.state, ended.error.message = Job.FAILED, "slice 3 failed"

    await world.jobs.change(JobName.parse(job.name), end)
    await send(world, job, failed(1), rank=3)
    assert (await current(world, job)).error.message == "ValueError: no"


async def test_a_stale_generation_commits_nothing_and_its_last_lines_are_kept(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    await world.opened(job, 2)
    checkpoint = report.RunEvent(sequence=2, checkpoint=await written(world, 10))
    answer = await send(world, job, line(1, "last words"), checkpoint, measured(3, 99), failed(4))
    assert answer.sequence == 4
    assert [(refused.sequence, refused.reason) for refused in answer.refused] == [(2, "GENERATION_STALE")]
    assert await texts(world, job) == ["last words"]
    after = await current(world, job)
    assert (after.checkpoint, after.progress.step, after.HasField("error")) == ("", 0, False)


async def test_a_generation_that_was_never_opened_is_not_heard(world: World) -> None:
    job = await world.submit()
    answer = await send(world, job, line(1), generation=1)
    assert [refused.reason for refused in answer.refused] == ["GENERATION_UNKNOWN"]
    assert await texts(world, job) == []


async def test_what_is_told_of_a_deleted_job_need_not_be_kept(world: World) -> None:
    answer = await send(world, Job(name="projects/acme/jobs/gone"), line(1), line(2))
    assert (answer.sequence, [refused.reason for refused in answer.refused]) == (2, ["JOB_NOT_FOUND"] * 2)


async def test_an_empty_batch_is_answered(world: World) -> None:
    assert (await send(world, await world.submit())).sequence == 0


async def test_what_cannot_be_committed_is_refused_and_the_rest_is_taken(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    bad = report.RunEvent(sequence=1, package=report.PackageWritten(manifest="sha256:nothing"))
    good = report.RunEvent(sequence=2, checkpoint=await written(world, 10))
    answer = await send(world, job, bad, good)
    assert [refused.sequence for refused in answer.refused] == [1]
    assert (await current(world, job)).checkpoint.endswith("10")


@pytest.mark.parametrize("after", [False, True])
async def test_a_trainer_killed_within_a_batch_stores_it_once_when_it_comes_again(world: World, after: bool) -> None:
    at = 0
    while True:
        at += 1
        job = await world.submit(f"digits-{at}")
        await world.opened(job)
        batch = [
            line(1),
            report.RunEvent(sequence=2, checkpoint=await written(world, 10)),
            measured(3, 11, loss=0.5),
            report.RunEvent(sequence=4, checkpoint=await written(world, 20)),
        ]
        jobs = JobStore(MortalKV(world.kv, Steps(at, after=after)))
        mortal = RunReportServicer(jobs, Runs(jobs, world.artifacts), world.journals)
        request = report.ReportRunRequest(job=job.name, generation=1, events=batch)
        try:
            await mortal._take(request)
            was_killed = False
        except Crash:
            was_killed = True
        assert (await send(world, job, *batch)).sequence == 4
        assert await texts(world, job) == ["hello"]
        kept = [one.step for one in await world.jobs.checkpoints(JobName.parse(job.name))]
        assert kept == [20, 10]
        assert (await current(world, job)).checkpoint.endswith("20")
        if not was_killed:
            break
    assert at == 4


async def test_a_store_that_is_away_refuses_nothing(world: World) -> None:
    job = await world.submit()
    await world.opened(job)

    class Away:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.kv, name)

        async def txn(self, *arguments: Any) -> Any:
            raise store.Unavailable("no leader")

    jobs = JobStore(Away())
    servicer = RunReportServicer(jobs, Runs(jobs, world.artifacts), world.journals)
    checkpoint = report.RunEvent(sequence=1, checkpoint=await written(world, 10))
    with pytest.raises(store.Unavailable):
        await servicer._take(report.ReportRunRequest(job=job.name, generation=1, events=[checkpoint]))
    assert await world.journals.of(job.uid).read(0) == []


@asynccontextmanager
async def served(world: World) -> AsyncIterator[Mesh]:
    async with serving((add_RunReportServiceServicer_to_server, world.reports)) as mesh:
        yield mesh


async def test_agents_report_over_the_mesh_and_nobody_else(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    async with served(world) as mesh:
        async with mesh.peer("agent/n1") as peers:
            stub: Any = RunReportServiceStub(peers.channel("trainer"))
            assert (await stub.StartRun(start_request(job))).spec_json
            stream = stub.ReportRun()
            for sequence in (1, 2):
                await stream.write(report.ReportRunRequest(job=job.name, generation=1, events=[line(sequence)]))
                assert (await stream.read()).sequence == sequence
            await stream.done_writing()
        async with mesh.peer("service/inference") as peers:
            with pytest.raises(PermissionDenied):
                await RunReportServiceStub(peers.channel("trainer")).StartRun(start_request(job))
    assert await texts(world, job) == ["hello", "hello"]


async def test_a_checkpoint_that_could_not_be_written_is_shown_until_one_is(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    await send(world, job, report.RunEvent(sequence=1, checkpoint_failed="No space left on device"))
    shown = await current(world, job)
    assert shown.message == "checkpoint not written: No space left on device"
    assert not shown.HasField("error")
    written_now = report.RunEvent(sequence=2, checkpoint=await written(world, 10))
    await send(world, job, written_now)
    assert (await current(world, job)).message == ""
