"""Workloads that no service made under a residency policy: at admission, and when pools or policies change."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis.clock import SystemClock
from chassis.compliance import Compliance
from chassis.paging import Pager
from chassis.requests import Requests
from lepton.auth.v1.compliance_pb2 import ComplianceFinding, CompliancePolicy, ResidencyRule
from lepton.compliance.rulebook import Rulebook
from lepton.errors import FailedPrecondition, Unavailable
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from lepton.scheduler.v1.workload_pb2 import Workload
from services.scheduler import keys
from services.scheduler.compliance import PoolLabels
from services.scheduler.ledger import Ledger
from services.scheduler.workloads import Workloads
from tests.harness.compliance import Reports, labelled, policy
from tests.harness.memory_kv import MemoryKV
from tests.harness.mesh import ROLES
from tests.harness.scheduling import Replica, program, replica_of, workload
from tests.harness.wait import until

ACME = "projects/acme"
DIGEST = "sha256:" + "d" * 64
LAW = policy("law", ResidencyRule())


class Ruled:
    """A scheduler with a pool in each region, and a user of it."""

    def __init__(self, replica: Replica, stub: Any) -> None:
        self.replica, self.stub = replica, stub
        self.reports = Reports()
        self.watch = replica.scheduler.compliance_watch(self.reports)

    def rule(self, *policies: CompliancePolicy, data: Any = None) -> None:
        self.replica.mesh.change_policy(compliance=Rulebook(policies=policies, data=data or {}))

    async def pool(self, pool_id: str, region: str) -> None:
        request = pb.CreatePoolRequest(pool_id=pool_id, pool=Pool(labels={"region": region}))
        await self.replica.admin.CreatePool(request)

    async def move(self, pool: str, region: str) -> None:
        moved = pb.UpdatePoolRequest(pool=Pool(name=pool, labels={"region": region}))
        moved.update_mask.paths.append("labels")
        await self.replica.admin.UpdatePool(moved)

    async def create(self, workload_id: str, made: Workload, stub: Any = None, **more: Any) -> Workload:
        request = pb.CreateWorkloadRequest(parent=ACME, workload_id=workload_id, workload=made, **more)
        created: Workload = await (stub or self.stub).CreateWorkload(request)
        return created

    async def known(self, *names: str) -> None:
        await until(lambda: set(names) <= set(self.replica.scheduler.ledger.workloads))


@pytest.fixture
async def ruled() -> AsyncIterator[Ruled]:
    async with MemoryKV() as kv, replica_of(kv) as replica, replica.mesh.client("users/alice") as channel:
        replica.mesh.change_policy(roles={**ROLES, "roles/developer": frozenset({"workloads.*"})})
        made = Ruled(replica, SchedulerServiceStub(channel))
        for region in ("eu", "us"):
            await made.pool(region, region)
        await until(lambda: len(replica.scheduler.ledger.pools) == 2)
        yield made


def batch_of(*pools: str, **fields: Any) -> Workload:
    return workload(kind=Workload.BATCH, pools=pools, **fields)


async def test_a_workload_stays_where_its_labels_say(ruled: Ruled) -> None:
    ruled.rule(LAW)
    with pytest.raises(FailedPrecondition) as caught:
        await ruled.create("w", batch_of("pools/us", labels={"region": "eu"}))
    told = caught.value.metadata
    assert (caught.value.reason, told["policy"], told["rule"]) == ("COMPLIANCE_VIOLATION", LAW.name, "residency")
    assert told["problem"] == f"{ACME}/workloads/w is of region eu, and pools/us is of region us"
    assert told["fix"] == "name pools with region eu: pools/eu"
    with pytest.raises(FailedPrecondition, match="no pools are named"):
        await ruled.create("w", batch_of(labels={"region": "eu"}))
    made = await ruled.create("w", batch_of("pools/eu", labels={"region": "eu"}))
    assert (made.creator, dict(made.labels)) == ("users/alice", {"region": "eu"})


async def test_a_workload_stays_where_the_data_may_be_that_it_names(ruled: Ruled) -> None:
    ruled.rule(LAW, data=labelled(DIGEST, region="eu"))
    with pytest.raises(FailedPrecondition, match="pools/us is of region us"):
        await ruled.create("w", batch_of("pools/us", runs=program("fetch", DIGEST)))
    await ruled.create("w", batch_of("pools/eu", runs=program("fetch", DIGEST)))
    await ruled.create("other", batch_of("pools/us", runs=program("fetch", "sha256:" + "e" * 64)))


async def test_control_without_the_policy_it_goes_anywhere(ruled: Ruled) -> None:
    await ruled.create("w", batch_of("pools/us", labels={"region": "eu"}))
    ruled.rule(policy("law", ResidencyRule(), mode=CompliancePolicy.DRY_RUN))
    await ruled.create("any", batch_of(labels={"region": "eu"}))


async def test_what_services_make_is_theirs_to_judge(ruled: Ruled) -> None:
    ruled.rule(policy("law", ResidencyRule(require_label=True)))
    with pytest.raises(FailedPrecondition, match="has no label region"):
        await ruled.create("w", batch_of("pools/us"))
    assert not (await ruled.create("w", batch_of("pools/us"), ruled.replica.trainer)).creator
    await ruled.known(f"{ACME}/workloads/w")
    assert await ruled.watch.round() == 0


async def test_of_a_batch_each_is_judged(ruled: Ruled) -> None:
    ruled.rule(LAW)
    items = [
        pb.CreateWorkloadRequest(workload_id=f"w{at}", workload=batch_of(pool, labels={"region": "eu"}))
        for at, pool in enumerate(("pools/eu", "pools/us"))
    ]
    done = await ruled.stub.BatchCreateWorkloads(pb.BatchCreateWorkloadsRequest(parent=ACME, requests=items))
    assert [bool(each.code) for each in done.results] == [False, True]
    assert "pools/us is of region us" in done.results[1].message


async def test_a_repeat_gets_the_first_answer_though_the_policy_is_another_now(ruled: Ruled) -> None:
    elsewhere, once = (
        batch_of("pools/us", labels={"region": "eu"}),
        {"request_id": "a1b2c3d4-0000-4000-8000-000000000001"},
    )
    first = await ruled.create("w", elsewhere, **once)
    ruled.rule(LAW)
    assert (await ruled.create("w", elsewhere, **once)).uid == first.uid


async def test_replicas_are_not_changed_past_a_rule(ruled: Ruled) -> None:
    serving = workload(kind=Workload.SERVING, pools=["pools/us"], runs=program("serve"))
    made = await ruled.create("w", serving)
    ruled.rule(LAW, data=labelled(DIGEST, region="eu"))
    wanted = workload(kind=Workload.SERVING, name=made.name, runs=program("serve", DIGEST), priority=7)
    request = pb.UpdateWorkloadRequest(workload=wanted)
    request.update_mask.paths.append("groups")
    with pytest.raises(FailedPrecondition, match="pools/us is of region us"):
        await ruled.stub.UpdateWorkload(request)
    request.update_mask.paths[:] = ["priority"]
    assert (await ruled.stub.UpdateWorkload(request)).priority == 7


async def test_one_whose_pool_moves_is_found_and_stopped_when_the_policy_says_so(ruled: Ruled) -> None:
    made = await ruled.create("w", batch_of("pools/eu", labels={"region": "eu"}))
    await ruled.known(made.name)
    ruled.rule(LAW)
    assert await ruled.watch.round() == 0
    await ruled.move("pools/eu", "us")
    await until(lambda: ruled.replica.scheduler.ledger.pools["pools/eu"].labels["region"] == "us")
    await ruled.watch.round()
    (found,) = ruled.reports.last
    assert (found.resource, found.action) == (made.name, ComplianceFinding.REPORTED)
    assert found.message == f"{made.name} is of region eu, and pools/eu is of region us"
    ruled.rule(policy("law", ResidencyRule(), remedy=CompliancePolicy.QUARANTINE))
    await ruled.watch.round()
    assert [each.action for each in ruled.reports.last] == [ComplianceFinding.QUARANTINED]
    stopped = await ruled.replica.until_state("w", Workload.CANCELLED)
    assert stopped.message.startswith(f"stopped by {LAW.name} (rule residency)")


async def test_a_moved_pool_is_looked_at_at_once() -> None:
    """Not after half a minute: the watch, which waits, is woken. Other changes wake nobody."""
    async with MemoryKV() as kv, replica_of(kv) as replica:
        woken: list[bool] = []
        PoolLabels(replica.scheduler.ledger).on_change(lambda: woken.append(True))
        await replica.trainer.CreateWorkload(
            pb.CreateWorkloadRequest(parent=ACME, workload_id="w", workload=batch_of())
        )
        await until(lambda: len(replica.scheduler.ledger.workloads) == 1)
        assert not woken
        await replica.admin.CreatePool(pb.CreatePoolRequest(pool_id="eu", pool=Pool()))
        await until(lambda: bool(woken))


async def test_while_the_ledger_is_not_known_nothing_is_judged() -> None:
    async with MemoryKV() as kv:
        labels = PoolLabels(Ledger(kv, SystemClock()))
        assert labels.labels is None
        compliance = Compliance(pools=labels)
        compliance.rulebook = Rulebook(policies=(LAW,))
        pager = await Pager.open(kv, keys.PAGE_KEY)
        made = Workloads(kv, Requests(kv, keys.REQUESTS), pager, SystemClock(), compliance=compliance)
        with pytest.raises(Unavailable, match="COMPLIANCE_NOT_READY"):
            made._check_compliance(Workload(name=f"{ACME}/workloads/w", creator="users/a", labels={"region": "eu"}))
