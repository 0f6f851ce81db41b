"""What was printed and measured, as clients read it: from the end, thinned, resumed, with what is known of the time."""

import asyncio
from typing import Any

import pytest

from lepton.errors import InvalidArgument
from lepton.internal.v1 import run_report_pb2 as report
from lepton.trainer.v1 import trainer_service_pb2 as pb
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.journal import Limits
from tests.trainer.conftest import World
from tests.trainer.test_reports import current, line, measured, send
from tests.trainer.test_servicer import Trainer, logged, trainer  # noqa: F401 - a fixture

STEPS = 3000


async def running(trainer: Trainer) -> Job:  # noqa: F811
    job = await trainer.create()
    await trainer.world.opened(job)
    return job


async def points(trainer: Trainer, job: Job, **fields: Any) -> list[pb.MetricPoint]:  # noqa: F811
    async with asyncio.timeout(20):
        stream = trainer.stub.StreamMetrics(pb.StreamMetricsRequest(name=job.name, **fields))
        return [point async for answer in stream for point in answer.points]


async def measure(trainer: Trainer, job: Job) -> None:  # noqa: F811
    for begin in range(1, STEPS + 1, 500):
        events = [measured(at, at, loss=9.0 if at == 1234 else 1.0) for at in range(begin, begin + 500)]
        await send(trainer.world, job, *events)


async def test_the_last_lines_of_all_or_of_one_rank(trainer: Trainer) -> None:  # noqa: F811
    job = await running(trainer)
    await send(trainer.world, job, *(line(at, f"zero {at}") for at in range(1, 6)), measured(6, 1, loss=1.0))
    await send(trainer.world, job, *(line(at, f"one {at}") for at in range(1, 4)), rank=1)
    assert await logged(trainer, job, tail_lines=2) == ["one 2", "one 3"]
    assert await logged(trainer, job, tail_lines=2, ranks=[0]) == ["zero 4", "zero 5"]
    assert await logged(trainer, job, tail_lines=100) == await logged(trainer, job)
    assert await logged(trainer, job, tail_lines=5, offset=7) == ["one 2", "one 3"]
    following = asyncio.ensure_future(logged(trainer, job, tail_lines=1, follow=True))
    await send(trainer.world, job, line(4, "one 4"), rank=1)
    await trainer.end(job)
    assert (await following)[-1] == "one 4"
    with pytest.raises(InvalidArgument):
        await logged(trainer, job, tail_lines=-1)


async def test_a_long_record_is_thinned_and_goes_on_whole(trainer: Trainer) -> None:  # noqa: F811
    job = await running(trainer)
    await measure(trainer, job)
    few = await points(trainer, job, max_points=60)
    assert 20 < len(few) <= 60
    assert (few[0].step, few[-1].step) == (1, STEPS)
    assert 1234 in {point.step for point in few}
    assert len(await points(trainer, job)) == STEPS
    assert len(await points(trainer, job, offset=few[-1].offset, max_points=60)) == 0
    following = asyncio.ensure_future(points(trainer, job, max_points=10, follow=True))
    await send(trainer.world, job, *(measured(at, at, loss=0.5) for at in range(STEPS + 1, STEPS + 21)))
    await trainer.end(job)
    offsets = [point.offset for point in await following]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == STEPS + 20


async def test_a_restarted_trainer_reads_the_same(trainer: Trainer) -> None:  # noqa: F811
    job = await running(trainer)
    await measure(trainer, job)
    before = await points(trainer, job, max_points=50)
    trainer.world.journals._open.clear()  # as a new process: nothing is known but the files
    assert await points(trainer, job, max_points=50) == before


async def test_a_job_says_when_it_will_be_done_and_how_busy_its_ranks_are(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    reports = world.reports

    async def say(rank: int, *events: report.RunEvent) -> None:
        async def requests() -> Any:
            yield report.ReportRunRequest(job=job.name, generation=1, rank=rank, events=events)

        assert [answer async for answer in reports.ReportRun(requests(), None)]

    def at(second: int, event: report.RunEvent) -> report.RunEvent:
        event.time.FromSeconds(1_700_000_000 + second)
        return event

    await say(0, at(0, measured(1, 10, loss=1.0)))
    assert (await current(world, job)).progress.eta_s == 0
    await say(1, at(5, report.RunEvent(sequence=1, pace=report.RankPace(step=15, step_s=0.5, busy_s=0.25))))
    await say(0, at(10, measured(2, 30, loss=0.5)))
    progress = (await current(world, job)).progress
    assert (progress.eta_s, progress.utilization) == (pytest.approx(35.0), 0.5)
    lines = await world.journals.of(job.uid).read(0)
    assert [entry["values"] for entry in lines] == [{"loss": 1.0}, {"loss": 0.5, "utilization": 0.5}]


async def test_a_job_that_prints_for_ever_is_kept_within_its_limit(trainer: Trainer, world: World) -> None:  # noqa: F811
    world.journals._limits = Limits(output=50_000)
    job = await running(trainer)
    for begin in range(1, 4001, 200):
        await send(world, job, *(line(number, f"line {number}") for number in range(begin, begin + 200)))
    lines = await logged(trainer, job)
    assert (lines[0], lines[-1]) == ("line 1", "line 4000")
    assert sum("lines (" in each and "were dropped here" in each for each in lines) == 1
    assert world.journals._path(job.uid).stat().st_size < 80_000
    assert await logged(trainer, job, ranks=[3]) == [each for each in lines if "dropped" in each]
