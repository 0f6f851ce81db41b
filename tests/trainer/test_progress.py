"""What the scheduler is told of how a job gets on."""

import pytest

from chassis.resources import now
from lepton.errors import Unavailable
from lepton.names import CheckpointName, JobName
from lepton.scheduler.v1.scheduler_service_pb2 import ReportWorkloadProgressRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.progress import EVERY_S, ProgressReports, report_of
from services.trainer.store import checkpoint_key
from tests.harness.clock import ManualClock
from tests.trainer.conftest import World, workload_of

WORKLOAD = Workload(name="projects/acme/workloads/w", state=Workload.RUNNING, generation=2)


def job(samples_per_s: float = 0.0, checkpoint: str = "", **fields: object) -> Job:
    given = {"name": "projects/acme/jobs/digits", "state": Job.RUNNING, "generation": 2, **fields}
    running = Job(checkpoint=checkpoint, **given)  # type: ignore[arg-type]
    running.progress.samples_per_s = samples_per_s
    return running


class Listener:
    """Remembers what it is told; fails when it should."""

    def __init__(self) -> None:
        self.said: list[ReportWorkloadProgressRequest] = []
        self.is_there = True

    async def report_progress(self, request: ReportWorkloadProgressRequest) -> None:
        if not self.is_there:
            raise Unavailable("UNREACHABLE")
        self.said.append(request)


@pytest.mark.parametrize(
    ("asked", "workload"),
    [
        (job(5.0, state=Job.STARTING), WORKLOAD),
        (job(5.0, generation=1), WORKLOAD),
        (job(5.0), Workload(state=Workload.ASSIGNED, generation=2)),
        (job(), WORKLOAD),
    ],
    ids=["not running", "an older generation", "not all of it runs", "nothing measured"],
)
def test_what_says_nothing_of_this_generation_is_not_told(asked: Job, workload: Workload) -> None:
    assert report_of(asked, workload, None) is None


def test_speed_and_checkpoint_are_told_with_the_generation() -> None:
    newest = Checkpoint(step=3)
    newest.create_time.FromSeconds(77)
    report = report_of(job(5.0), WORKLOAD, newest)
    assert report is not None
    assert (report.name, report.generation, report.samples_per_s) == (WORKLOAD.name, 2, 5.0)
    assert report.checkpoint_time.seconds == 77


async def test_a_job_that_measures_often_is_told_of_seldom(world: World) -> None:
    listener, clock = Listener(), ManualClock()
    reports = ProgressReports(world.jobs, listener, clock)
    for at in range(5):
        await reports.tell(job(5.0 + at), WORKLOAD)
    assert [each.samples_per_s for each in listener.said] == [5.0]
    await clock.advance(EVERY_S)
    await reports.tell(job(5.0), WORKLOAD)
    assert len(listener.said) == 1, "it is no news"
    await reports.tell(job(9.0), WORKLOAD)
    assert [each.samples_per_s for each in listener.said] == [5.0, 9.0]
    listener.is_there = False
    await clock.advance(EVERY_S)
    await reports.tell(job(11.0), WORKLOAD)
    listener.is_there = True
    await clock.advance(EVERY_S)
    await reports.tell(job(12.0), WORKLOAD)
    assert [each.samples_per_s for each in listener.said] == [5.0, 9.0, 12.0]


async def test_the_scheduler_hears_of_a_checkpoint_and_of_the_speed(scheduled_world: World) -> None:
    world = scheduled_world
    created = await world.submit()
    async with world.reconciling():
        name = (await world.scheduler.workload(workload_of(created))).name
        await world.scheduler.place(name)
        await world.scheduler.run(name)
        await world.in_state(created, Job.RUNNING)
        job_name = JobName.parse(created.name)
        newest = Checkpoint(name=str(CheckpointName(job_name.project, job_name.job, "3")), create_time=now())
        await world.kv.put(checkpoint_key(job_name, 3), newest.SerializeToString())

        def measure(current: Job) -> None:
            current.generation, current.checkpoint = 1, newest.name
            current.progress.samples_per_s = 40.0

        await world.jobs.change(job_name, measure)
        heard = await world.scheduler.workload(name, lambda each: each.throughput)
    assert dict(heard.throughput) == {2: 40.0}
    assert heard.checkpoint_time == newest.create_time


async def test_a_new_generation_begins_without_the_speed_of_the_last(world: World) -> None:
    created = await world.submit()
    await world.opened(created)

    def measure(current: Job) -> None:
        current.progress.samples_per_s = 40.0

    await world.jobs.change(JobName.parse(created.name), measure)
    await world.opened(created, 2)
    assert (await world.jobs.get(JobName.parse(created.name))).progress.samples_per_s == 0.0
