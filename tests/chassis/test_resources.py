"""Stored resources: no update is lost, no guard is passed by, no request is answered twice."""

import asyncio
import uuid

import pytest

from chassis.kv import Compare, Delete, Put, absent, created, present
from chassis.requests import Requests
from chassis.resources import Resources
from lepton.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from lepton.names import JobName
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import CreateJobRequest
from tests.harness.memory_kv import MemoryKV

NAME = JobName("acme", "a")


def key(name: JobName) -> str:
    return f"/jobs/{name.job}"


def stored(kv: MemoryKV) -> Resources[JobName, Job]:
    return Resources(kv, Job, key)


async def made(kv: MemoryKV) -> Job:
    job = await stored(kv).create(NAME, Job(name=str(NAME)))
    assert job is not None
    return job


def one_more(job: Job) -> None:
    job.priority += 1


async def test_a_resource_is_made_once_and_read_with_its_etag() -> None:
    kv = MemoryKV()
    job = await made(kv)
    assert await stored(kv).get(NAME) == job
    assert job.etag
    with pytest.raises(AlreadyExists, match="JOB_ALREADY_EXISTS"):
        await made(kv)


async def test_what_is_not_there_is_not_found() -> None:
    resources = stored(MemoryKV())
    assert await resources.find(NAME) is None
    for call in (resources.get(NAME), resources.change(NAME, one_more), resources.delete(NAME)):
        with pytest.raises(NotFound, match="JOB_NOT_FOUND"):
            await call


async def test_changes_at_once_are_all_made() -> None:
    kv = MemoryKV()
    await made(kv)
    await asyncio.gather(*(stored(kv).change(NAME, one_more) for _ in range(40)))
    assert (await stored(kv).get(NAME)).priority == 40


async def test_a_change_that_changes_nothing_is_not_written() -> None:
    kv = MemoryKV()
    job = await made(kv)
    assert await stored(kv).change(NAME, lambda current: None) == job


async def test_a_change_answers_what_is_then_stored() -> None:
    kv = MemoryKV()
    job = await made(kv)
    changed = await stored(kv).change(NAME, one_more)
    assert changed == await stored(kv).get(NAME)
    assert changed.etag != job.etag
    assert changed.HasField("update_time")


async def test_an_old_etag_changes_and_deletes_nothing() -> None:
    kv = MemoryKV()
    old = await made(kv)
    await stored(kv).change(NAME, one_more)
    for call in (stored(kv).change(NAME, one_more, etag=old.etag), stored(kv).delete(NAME, etag=old.etag)):
        with pytest.raises(Aborted, match="ETAG_MISMATCH"):
            await call
    assert (await stored(kv).get(NAME)).priority == 1


@pytest.mark.parametrize("guard", [absent("/jobs/a"), present("/nothing"), created("/jobs/a", 99)])
async def test_a_guard_that_does_not_hold_stops_a_write(guard: Compare) -> None:
    kv = MemoryKV()
    await made(kv)
    for call in (stored(kv).change(NAME, one_more, guard=[guard]), stored(kv).delete(NAME, guard=[guard])):
        with pytest.raises(Aborted, match="GUARD_FAILED"):
            await call
    assert (await stored(kv).get(NAME)).priority == 0
    assert await stored(kv).create(JobName("acme", "b"), Job(), guard=[guard]) is None


async def test_a_guard_that_fails_while_others_write_is_still_a_failed_guard() -> None:
    kv = MemoryKV()
    await made(kv)
    guarded = stored(kv).change(NAME, one_more, guard=[present("/nothing")])
    outcomes = await asyncio.gather(
        guarded, *(stored(kv).change(NAME, one_more) for _ in range(10)), return_exceptions=True
    )
    assert isinstance(outcomes[0], Aborted)
    assert (outcomes[0].reason, (await stored(kv).get(NAME)).priority) == ("GUARD_FAILED", 10)


async def test_what_is_written_beside_is_written_with_it_or_not_at_all() -> None:
    kv = MemoryKV()
    await made(kv)

    def beside(job: Job) -> list[Put]:
        return [Put("/beside", str(job.priority).encode())]

    await asyncio.gather(*(stored(kv).change(NAME, one_more, beside=beside) for _ in range(5)))
    entry, resource = await kv.get("/beside"), await kv.get(key(NAME))
    assert entry is not None
    assert resource is not None
    assert (entry.value, entry.mod_revision) == (b"5", resource.mod_revision)
    with pytest.raises(Aborted):
        await stored(kv).change(NAME, one_more, guard=[present("/nothing")], beside=beside)
    assert (await kv.get("/beside")) == entry


async def test_a_delete_holds_against_those_who_write_meanwhile() -> None:
    kv = MemoryKV()
    await made(kv)
    outcomes = await asyncio.gather(
        stored(kv).delete(NAME, beside=[Delete("/beside")]),
        *(stored(kv).change(NAME, one_more) for _ in range(10)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], Job)
    assert await stored(kv).find(NAME) is None


async def test_a_delete_asks_about_what_it_really_deletes() -> None:
    kv = MemoryKV()
    await made(kv)

    def check(job: Job) -> None:
        if job.priority:
            raise FailedPrecondition("JOB_NOT_ENDED", job=job.name)

    await stored(kv).change(NAME, one_more)
    with pytest.raises(FailedPrecondition):
        await stored(kv).delete(NAME, check=check)


async def test_a_request_that_comes_twice_makes_one_resource() -> None:
    kv = MemoryKV()
    requests = Requests(kv, "/requests/")
    request = CreateJobRequest(job_id="a", request_id=str(uuid.uuid4()))

    async def ask() -> Job:
        return await requests.once(request, Job, lambda claim: stored(kv).create(NAME, Job(name=str(NAME)), claim))

    answers = await asyncio.gather(*(ask() for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)
