"""Generations: opened once, fenced by the next; checkpoints committed, kept and gone on from."""

import asyncio
import json

import pytest

from lepton.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from lepton.internal.v1.run_report_pb2 import CheckpointWritten, PackageWritten
from lepton.names import JobName
from lepton.trainer.v1.job_pb2 import CheckpointPolicy, Job, Progress
from services.trainer.store import workload_uid_key
from tests.trainer.conftest import World, start_request


async def written(world: World, step: int, content: bytes | None = None) -> CheckpointWritten:
    file = await world.artifacts.put_bytes("acme", content or f"weights of {step}".encode())
    size = await world.artifacts.size("acme", file)
    document = {"step": step, "files": [{"name": "model", "digest": file, "size": size}]}
    manifest = await world.artifacts.put_bytes("acme", json.dumps(document).encode())
    return CheckpointWritten(step=step, manifest=manifest, metrics={"loss": 1.0 / (step + 1)})


async def commit(world: World, job: Job, step: int, generation: int = 1) -> CheckpointWritten:
    checkpoint = await written(world, step)
    await world.runs.commit_checkpoint(JobName.parse(job.name), generation, checkpoint)
    return checkpoint


async def steps(world: World, job: Job) -> list[int]:
    return [one.step for one in await world.jobs.checkpoints(JobName.parse(job.name))]


async def test_agents_that_open_a_generation_together_get_one_answer(world: World) -> None:
    job = await world.submit()
    await world.kv.put(workload_uid_key(JobName.parse(job.name)), b"w-uid")
    answers = await asyncio.gather(*(world.runs.start(start_request(job)) for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert (await world.jobs.get(JobName.parse(job.name))).generation == 1


async def test_a_later_caller_gets_the_first_answer_whatever_was_committed_since(world: World) -> None:
    job = await world.submit()
    first = await world.opened(job)
    await commit(world, job, 10)
    assert await world.runs.start(start_request(job)) == first


async def test_a_new_generation_goes_on_from_the_newest_checkpoint(world: World) -> None:
    job = await world.submit()
    assert (await world.opened(job)).resume_manifest == ""
    await commit(world, job, 10)
    newest = await commit(world, job, 20)
    assert (await world.opened(job, 2)).resume_manifest == newest.manifest


async def test_the_checkpoints_before_the_newest_are_told_for_when_it_is_damaged(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    first, second, third = [await commit(world, job, step) for step in (10, 20, 30)]
    answer = await world.opened(job, 2)
    assert [answer.resume_manifest, *answer.older_manifests] == [third.manifest, second.manifest, first.manifest]
    again = await commit(world, job, 25, generation=2)  # it went on from 20, for 30 could not be read
    assert await steps(world, job) == [25, 20, 10]
    assert (await world.opened(job, 3)).resume_manifest == again.manifest


async def test_a_commit_that_races_the_next_generation_is_its_start_or_is_refused(world: World) -> None:
    for number in range(10):
        job = await world.submit(f"digits-{number}")
        await world.opened(job)
        checkpoint = await written(world, 10)
        committing = asyncio.ensure_future(
            world.runs.commit_checkpoint(JobName.parse(job.name), 1, checkpoint),
        )
        for _ in range(number):
            await asyncio.sleep(0)
        answer = await world.runs.start(start_request(job, 2))
        outcome = (await asyncio.gather(committing, return_exceptions=True))[0]
        if outcome is None:
            assert answer.resume_manifest == checkpoint.manifest
        else:
            assert isinstance(outcome, FailedPrecondition)
            assert answer.resume_manifest == ""


async def test_a_newer_generation_fences_the_older(world: World) -> None:
    job = await world.submit()
    await world.opened(job, 2)
    for late in (world.runs.start(start_request(job, 1)), commit(world, job, 10, generation=1)):
        with pytest.raises(FailedPrecondition) as caught:
            await late
        assert caught.value.reason == "GENERATION_STALE"
    assert await steps(world, job) == []


async def test_an_ended_job_opens_and_takes_nothing(world: World) -> None:
    job = await world.submit()
    await world.opened(job)

    def end(current: Job) -> None:
        current.state = Job.CANCELLED

    await world.jobs.change(JobName.parse(job.name), end)
    for late in (world.runs.start(start_request(job, 2)), commit(world, job, 10)):
        with pytest.raises(FailedPrecondition) as caught:
            await late
        assert caught.value.reason == "JOB_ENDED"


async def test_only_the_jobs_own_workload_opens_it(world: World) -> None:
    job = await world.submit()
    with pytest.raises(Unavailable, match="RUN_NOT_READY"):
        await world.runs.start(start_request(job))
    await world.kv.put(workload_uid_key(JobName.parse(job.name)), b"w-uid")
    with pytest.raises(FailedPrecondition, match="NOT_THE_WORKLOAD"):
        await world.runs.start(start_request(job, workload_uid="another"))


async def test_a_generation_is_a_number_from_one(world: World) -> None:
    with pytest.raises(InvalidArgument):
        await world.opened(await world.submit(), 0)


async def test_progress_is_not_held_back_by_steps_that_are_done_again(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    await commit(world, job, 10)

    def report(current: Job) -> None:
        current.progress.CopyFrom(Progress(step=25))

    await world.jobs.change(JobName.parse(job.name), report)
    await world.opened(job, 2)
    assert (await world.jobs.get(JobName.parse(job.name))).progress.step == 10


@pytest.mark.parametrize(("keep", "left"), [(0, [5, 4, 3]), (1, [5]), (4, [5, 4, 3, 2])])
async def test_the_newest_checkpoints_are_kept(world: World, keep: int, left: list[int]) -> None:
    job = await world.submit(checkpoint_policy=CheckpointPolicy(keep_latest=keep))
    await world.opened(job)
    for step in range(1, 6):
        await commit(world, job, step)
    assert await steps(world, job) == left
    assert (await world.jobs.get(JobName.parse(job.name))).checkpoint.endswith("/000000000005")


async def test_repeats_of_commits_change_nothing(world: World) -> None:
    job = await world.submit(checkpoint_policy=CheckpointPolicy(keep_latest=1))
    await world.opened(job)
    told = [await commit(world, job, step) for step in (1, 2)]
    before = await world.jobs.get(JobName.parse(job.name))
    for checkpoint in told:
        await world.runs.commit_checkpoint(JobName.parse(job.name), 1, checkpoint)
    assert await world.jobs.get(JobName.parse(job.name)) == before
    assert await steps(world, job) == [2]


async def test_commits_beside_other_writes_are_not_lost(world: World) -> None:
    job = await world.submit()
    await world.opened(job)

    def progress(current: Job) -> None:
        current.progress.step += 1

    name = JobName.parse(job.name)
    await asyncio.gather(commit(world, job, 10), *(world.jobs.change(name, progress) for _ in range(20)))
    stored = await world.jobs.get(name)
    assert (stored.progress.step, stored.checkpoint.rpartition("/")[2]) == (20, "000000000010")


@pytest.mark.parametrize(
    "document",
    [b"no json", b"[" * 100_000, b"[]", b"{}", b'{"files": 3}', b'{"files": [{"digest": "sha256:x"}]}'],
    ids=["text", "deep", "list", "empty", "number", "no size"],
)
async def test_a_manifest_that_is_none_is_refused(world: World, document: bytes) -> None:
    job = await world.submit()
    await world.opened(job)
    manifest = await world.artifacts.put_bytes("acme", document)
    for refused in (
        world.runs.commit_checkpoint(JobName.parse(job.name), 1, CheckpointWritten(step=1, manifest=manifest)),
        world.runs.commit_package(JobName.parse(job.name), 1, PackageWritten(manifest=manifest)),
    ):
        with pytest.raises(InvalidArgument):
            await refused
    assert await steps(world, job) == []


async def test_a_checkpoint_with_a_missing_file_is_refused(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    absent = {"name": "model", "digest": "sha256:" + "0" * 64, "size": 3}
    manifest = await world.artifacts.put_bytes("acme", json.dumps({"files": [absent]}).encode())
    with pytest.raises(NotFound, match="ARTIFACT_NOT_FOUND"):
        await world.runs.commit_checkpoint(JobName.parse(job.name), 1, CheckpointWritten(step=1, manifest=manifest))


async def test_a_checkpoint_whose_file_was_cut_short_is_refused(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    file = await world.artifacts.put_bytes("acme", b"half")
    document = {"files": [{"name": "model", "digest": file, "size": 8}]}
    manifest = await world.artifacts.put_bytes("acme", json.dumps(document).encode())
    with pytest.raises(InvalidArgument, match="MANIFEST_INVALID"):
        await world.runs.commit_checkpoint(JobName.parse(job.name), 1, CheckpointWritten(step=1, manifest=manifest))


@pytest.mark.parametrize("step", [-1, 10**12])
async def test_a_step_that_is_none_is_refused(world: World, step: int) -> None:
    job = await world.submit()
    await world.opened(job)
    manifest = (await written(world, 1)).manifest
    with pytest.raises(InvalidArgument):
        await world.runs.commit_checkpoint(JobName.parse(job.name), 1, CheckpointWritten(step=step, manifest=manifest))


async def test_metrics_without_end_do_not_fill_the_job(world: World) -> None:
    job = await world.submit()
    await world.opened(job)
    many = await written(world, 1)
    many.metrics.update({f"m{number}": 1.0 for number in range(5000)})
    await world.runs.commit_checkpoint(JobName.parse(job.name), 1, many)
    assert len((await world.jobs.get(JobName.parse(job.name))).metrics) <= 256
