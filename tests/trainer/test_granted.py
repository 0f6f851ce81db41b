"""Who may submit which jobs: grants on conditions, and limits of principals, where jobs are made."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis.access import Binding, PolicyReplica
from chassis.clock import SystemClock
from chassis.conditions import Condition
from chassis.paging import Pager
from chassis.principal_limits import Allowance, PrincipalLimit
from lepton.errors import PermissionDenied, ResourceExhausted
from lepton.trainer.v1 import trainer_service_pb2 as pb
from lepton.trainer.v1.job_pb2 import Job, Workers
from lepton.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server
from services.trainer.counting import counted_jobs, devices_of
from services.trainer.servicer import TrainerServicer
from services.trainer.store import PAGE_KEY
from tests.harness.mesh import serving
from tests.harness.wait import until
from tests.trainer.conftest import World
from tests.trainer.test_servicer import Trainer, TrainerServiceStub

ALICE = "users/alice"


@pytest.fixture
async def trainer(world: World) -> AsyncIterator[Trainer]:
    access = PolicyReplica()
    counted = counted_jobs(world.kv, access, SystemClock())
    counting = asyncio.create_task(counted.run())
    pager = await Pager.open(world.kv, PAGE_KEY)
    servicer = TrainerServicer(world.kv, world.artifacts, world.journals, pager, limits=counted)
    registration = (add_TrainerServiceServicer_to_server, servicer)
    async with serving(registration, access=access) as mesh, mesh.client() as channel:
        found = Trainer(world, mesh, TrainerServiceStub(channel))
        found.dataset = await world.artifacts.put_bytes("acme", b"data")
        yield found
    counting.cancel()


def limit(trainer: Trainer, **amounts: Any) -> None:
    trainer.mesh.change_policy(limits=(PrincipalLimit(members=(ALICE,), allowance=Allowance(**amounts)),))


async def test_jobs_go_only_into_the_pools_and_up_to_the_priority_of_the_grant(trainer: Trainer) -> None:
    condition = Condition(pools=frozenset({"pools/a", "pools/b"}), max_priority=5)
    grant = Binding(principal=ALICE, role="roles/developer", scope="projects/acme", condition=condition)
    trainer.mesh.change_policy(bindings=(grant,))
    job = await trainer.create("one", pools=["pools/b", "pools/a"], priority=5)
    assert job.creator == ALICE
    for job_id, fields, unmet in (
        ("two", {"pools": ["pools/a", "pools/c"]}, "pools/c is none of pools/a, pools/b"),
        ("three", {}, "it names no pool; name one of pools/a, pools/b"),
        ("four", {"pools": ["pools/a"], "priority": 6}, "priority 6 is above 5"),
    ):
        with pytest.raises(PermissionDenied) as caught:
            await trainer.create(job_id, **fields)
        assert (caught.value.reason, caught.value.metadata["unmet"]) == ("CONDITION_NOT_MET", unmet)
    assert (await trainer.stub.GetJob(pb.GetJobRequest(name=job.name))).name == job.name
    trainer.mesh.change_policy(bindings=(Binding(principal=ALICE, role="roles/developer", scope="projects/acme"),))
    await trainer.create("two", pools=["pools/c"], priority=9)  # the control: the condition was what refused


async def test_who_creates_a_job_is_said_by_the_server(trainer: Trainer) -> None:
    job = await trainer.create("one", creator="users/bob")
    assert job.creator == ALICE


async def test_jobs_count_until_they_have_ended(trainer: Trainer) -> None:
    limit(trainer, max_unfinished=2)
    jobs = [await trainer.create(job_id) for job_id in ("one", "two")]
    with pytest.raises(ResourceExhausted) as caught:
        await trainer.create("three")
    assert caught.value.reason == "PRINCIPAL_LIMIT_EXCEEDED"
    assert caught.value.fields == {ALICE: "at most 2 jobs; 2 are taken and 1 more asked for"}
    await trainer.end(jobs[0])

    async def again() -> bool:
        try:
            return (await trainer.create("three")).state == Job.PENDING
        except ResourceExhausted:
            return False

    await until(again)
    async with trainer.signed_in("users/root") as root:  # who has no limit
        request = pb.CreateJobRequest(parent="projects/acme", job_id="four", job=jobs[0])
        request.job.dataset = trainer.dataset
        assert (await root.CreateJob(request)).creator == "users/root"


async def test_devices_count_at_the_largest_that_a_job_may_grow_to(trainer: Trainer) -> None:
    limit(trainer, max_device_milli=8000)
    await trainer.create("one", workers=Workers(count=1, max_count=3, devices=2))
    with pytest.raises(ResourceExhausted) as caught:
        await trainer.create("two", workers=Workers(count=3))
    facts = caught.value.metadata
    assert (facts["limit"], facts["used"], facts["wanted"], facts["unit"]) == ("8", "6", "3", "devices of jobs")
    await trainer.create("two", workers=Workers(count=2))
    await trainer.create("three", workers=Workers(count=9, devices=0))


async def test_of_many_jobs_at_once_no_more_get_in_than_may(trainer: Trainer) -> None:
    limit(trainer, max_unfinished=4)

    async def one(number: int) -> bool:
        try:
            return bool(await trainer.create(f"job-{number}"))
        except ResourceExhausted:
            return False

    assert sum(await asyncio.gather(*(one(number) for number in range(16)))) == 4
    assert len((await trainer.stub.ListJobs(pb.ListJobsRequest(parent="projects/acme"))).jobs) == 4


async def test_calls_come_as_often_as_the_limit_says(trainer: Trainer) -> None:
    request = pb.ListJobsRequest(parent="projects/acme")
    for _ in range(8):
        await trainer.stub.ListJobs(request)  # the control: without a limit
    limit(trainer, requests_per_s=0.5)  # one may come, and the next after two seconds

    async def refused() -> ResourceExhausted | None:
        try:
            await trainer.stub.ListJobs(request)
        except ResourceExhausted as error:
            return error
        return None

    errors = [await refused() for _ in range(3)]
    told = [each for each in errors if each is not None]
    assert told
    assert told[0].reason == "RATE_LIMITED"
    assert told[0].retry_after_s is not None
    assert 0 < told[0].retry_after_s <= 2


def test_a_job_that_says_nothing_of_devices_counts_one_each() -> None:
    assert devices_of(Job(workers=Workers(count=3))) == 3000
