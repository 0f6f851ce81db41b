"""Compliance at the trainer: what is submitted and deleted, and how jobs, checkpoints and artifacts are found."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chassis.compliance import Compliance
from chassis.compliance_watch import ComplianceWatch
from chassis.paging import Pager
from lepton.auth.v1.compliance_pb2 import (
    ComplianceFinding,
    CompliancePolicy,
    LicenseRule,
    ResidencyRule,
    RetentionRule,
)
from lepton.errors import FailedPrecondition
from lepton.names import JobName
from lepton.trainer.v1 import trainer_service_pb2 as pb
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub, add_TrainerServiceServicer_to_server
from services.trainer.compliance import JobInspector
from services.trainer.servicer import TrainerServicer
from services.trainer.store import PAGE_KEY
from tests.harness.clock import ManualClock
from tests.harness.compliance import Reports, governed, labelled, policy, rule_by
from tests.harness.mesh import serving
from tests.trainer.conftest import World, job_request
from tests.trainer.test_runs import commit

EU_ONLY = ResidencyRule()


class Governed:
    """A trainer, the policies that it follows, and what it tells of."""

    def __init__(self, world: World, stub: Any, compliance: Compliance, clock: ManualClock, dataset: str) -> None:
        self.world, self.stub, self.compliance, self.clock, self.dataset = world, stub, compliance, clock, dataset
        self.reports = Reports()
        inspector = JobInspector(world.kv, world.artifacts)
        self.watch = ComplianceWatch(compliance, inspector, self.reports, clock, every_s=30)

    def rule(self, *rules: Any, **given: Any) -> None:
        data = labelled(self.dataset, region="eu", license="CC-BY-NC-4.0")
        rule_by(self.compliance, policy("law", *rules, **given), data=data)

    async def create(self, *pools: str, **fields: Any) -> Job:
        job: Job = await self.stub.CreateJob(job_request(dataset=self.dataset, pools=pools, **fields))
        return job

    async def trained(self, *steps: int) -> Job:
        """A job that has ended, with checkpoints."""
        job = await self.create()
        await self.world.opened(job)
        for step in steps:
            await commit(self.world, job, step)

        def end(current: Job) -> None:
            current.state = Job.SUCCEEDED

        return await self.world.jobs.change(JobName.parse(job.name), end)


@pytest.fixture
async def governed_trainer(world: World) -> AsyncIterator[Governed]:
    clock = ManualClock(datetime.now(UTC))
    compliance = governed(clock=clock)
    pager = await Pager.open(world.kv, PAGE_KEY)
    servicer = TrainerServicer(world.kv, world.artifacts, world.journals, pager, compliance=compliance)
    dataset = await world.artifacts.put_bytes("acme", b"data")
    async with serving((add_TrainerServiceServicer_to_server, servicer)) as mesh, mesh.client() as channel:
        yield Governed(world, TrainerServiceStub(channel), compliance, clock, dataset)


async def test_a_job_stays_where_its_data_may_be(governed_trainer: Governed) -> None:
    governed_trainer.rule(EU_ONLY)
    for pools in ((), ("pools/us",), ("pools/eu", "pools/us")):
        with pytest.raises(FailedPrecondition, match="COMPLIANCE_VIOLATION") as caught:
            await governed_trainer.create(*pools)
        assert caught.value.metadata["rule"] == "residency"
        assert caught.value.metadata["fix"] == "name pools with region eu: pools/eu"
    assert (await governed_trainer.create("pools/eu")).state == Job.PENDING


async def test_control_without_the_policy_it_goes_anywhere(governed_trainer: Governed) -> None:
    assert (await governed_trainer.create("pools/us")).state == Job.PENDING


async def test_a_policy_that_is_tried_or_warns_refuses_nothing(governed_trainer: Governed) -> None:
    for number, mode in enumerate((CompliancePolicy.DRY_RUN, CompliancePolicy.WARN)):
        governed_trainer.rule(EU_ONLY, mode=mode)
        assert (await governed_trainer.create("pools/us", job_id=f"j{number}")).state == Job.PENDING


async def test_data_is_used_under_licences_that_are_allowed(governed_trainer: Governed) -> None:
    governed_trainer.rule(LicenseRule(allowed=["CC-BY-4.0"], kind=LicenseRule.DATASETS))
    with pytest.raises(FailedPrecondition, match="CC-BY-NC-4.0, which is not allowed"):
        await governed_trainer.create()


async def test_running_jobs_are_found_and_stopped_when_the_policy_says_so(governed_trainer: Governed) -> None:
    job = await governed_trainer.create("pools/us")
    governed_trainer.rule(EU_ONLY)
    assert await governed_trainer.watch.round() == 1
    (found,) = governed_trainer.reports.last
    assert (found.resource, found.kind, found.action) == (job.name, "residency", ComplianceFinding.REPORTED)
    assert governed_trainer.dataset in found.digests
    assert found.resource_etag == job.etag
    assert (await governed_trainer.world.jobs.get(JobName.parse(job.name))).state == Job.PENDING
    governed_trainer.rule(EU_ONLY, remedy=CompliancePolicy.QUARANTINE)
    await governed_trainer.watch.round()
    assert [each.action for each in governed_trainer.reports.last] == [ComplianceFinding.QUARANTINED]
    stopped = await governed_trainer.world.jobs.get(JobName.parse(job.name))
    assert stopped.state == Job.CANCELLING
    assert stopped.message.startswith("stopped by compliancePolicies/law (rule residency): ")


def retention(kind: Any = RetentionRule.CHECKPOINTS, *, longest: int = 0, shortest: int = 0) -> RetentionRule:
    rule = RetentionRule(kind=kind)
    if longest:
        rule.max_age.FromTimedelta(timedelta(days=longest))
    if shortest:
        rule.min_age.FromTimedelta(timedelta(days=shortest))
    return rule


async def test_old_checkpoints_are_found_and_deleted_when_the_policy_says_so(governed_trainer: Governed) -> None:
    job = await governed_trainer.trained(1, 2)
    governed_trainer.rule(retention(longest=30))
    assert await governed_trainer.watch.round() == 0
    await governed_trainer.clock.advance(31 * 86400)
    assert await governed_trainer.watch.round() == 2
    assert len(await governed_trainer.world.jobs.checkpoints(JobName.parse(job.name))) == 2
    governed_trainer.rule(retention(longest=30), remedy=CompliancePolicy.QUARANTINE)
    await governed_trainer.watch.round()
    assert {each.action for each in governed_trainer.reports.last} == {ComplianceFinding.QUARANTINED}
    assert await governed_trainer.world.jobs.checkpoints(JobName.parse(job.name)) == []
    assert await governed_trainer.watch.round() == 0


async def test_the_checkpoint_that_a_job_goes_on_from_is_kept(governed_trainer: Governed) -> None:
    job = await governed_trainer.create()
    await governed_trainer.world.opened(job)
    for step in (1, 2):
        await commit(governed_trainer.world, job, step)
    governed_trainer.rule(retention(longest=30), remedy=CompliancePolicy.QUARANTINE)
    await governed_trainer.clock.advance(31 * 86400)
    await governed_trainer.watch.round()
    (kept,) = await governed_trainer.world.jobs.checkpoints(JobName.parse(job.name))
    assert kept.step == 2


async def test_what_must_be_kept_is_not_deleted(governed_trainer: Governed) -> None:
    job = await governed_trainer.trained(1)
    governed_trainer.rule(retention(shortest=7))
    with pytest.raises(FailedPrecondition, match="must be kept until"):
        await governed_trainer.stub.DeleteJob(pb.DeleteJobRequest(name=job.name))
    await governed_trainer.clock.advance(8 * 86400)
    await governed_trainer.stub.DeleteJob(pb.DeleteJobRequest(name=job.name))


async def test_old_artifacts_are_found(governed_trainer: Governed) -> None:
    governed_trainer.rule(retention(RetentionRule.ARTIFACTS, longest=30), remedy=CompliancePolicy.QUARANTINE)
    await governed_trainer.clock.advance(31 * 86400)
    assert await governed_trainer.watch.round() == 1
    (found,) = governed_trainer.reports.last
    assert (found.action, list(found.digests)) == (ComplianceFinding.REPORTED, [governed_trainer.dataset])
    assert await governed_trainer.world.artifacts.exists("acme", governed_trainer.dataset)
