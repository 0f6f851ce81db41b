"""Who may make and change which workloads: grants on conditions, and limits of principals."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from chassis.access import Binding, PolicyReplica
from chassis.clock import SystemClock
from chassis.conditions import Condition
from chassis.paging import Pager
from chassis.principal_limits import Allowance, PrincipalLimit
from chassis.requests import Requests
from lepton.errors import PermissionDenied, ResourceExhausted
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.scheduler_service_pb2_grpc import (
    SchedulerServiceStub,
    add_SchedulerServiceServicer_to_server,
)
from lepton.scheduler.v1.workload_pb2 import TaskArray, Workload
from services.scheduler import keys
from services.scheduler.counting import counted_workloads, devices_of
from services.scheduler.servicer import SchedulerServicer
from services.scheduler.workloads import Workloads
from tests.harness.memory_kv import MemoryKV
from tests.harness.mesh import ROLES, Mesh, serving
from tests.harness.scheduling import workload

ALICE, ACME = "users/alice", "projects/acme"
FREELY = Binding(principal=ALICE, role="roles/developer", scope=ACME)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    access = PolicyReplica()
    async with MemoryKV() as kv:
        counted = counted_workloads(kv, access, SystemClock())
        counting = asyncio.create_task(counted.run())
        pager = await Pager.open(kv, keys.PAGE_KEY)
        workloads = Workloads(kv, Requests(kv, keys.REQUESTS), pager, SystemClock(), counted, access)
        unused: Any = None
        servicer = SchedulerServicer(unused, unused, workloads)
        async with serving((add_SchedulerServiceServicer_to_server, servicer), access=access) as running:
            running.change_policy(roles={**ROLES, "roles/developer": frozenset({"workloads.*"})}, bindings=(FREELY,))
            yield running
        counting.cancel()


@pytest.fixture
async def stub(mesh: Mesh) -> AsyncIterator[Any]:
    async with mesh.client() as channel:
        yield SchedulerServiceStub(channel)


def on_condition(mesh: Mesh, **condition: Any) -> None:
    mesh.change_policy(
        bindings=(Binding(principal=ALICE, role="roles/developer", scope=ACME, condition=Condition(**condition)),)
    )


def limit(mesh: Mesh, **amounts: Any) -> None:
    mesh.change_policy(limits=(PrincipalLimit(members=(ALICE,), allowance=Allowance(**amounts)),))


async def create(stub: Any, workload_id: str, made: Workload) -> Workload:
    request = pb.CreateWorkloadRequest(parent=ACME, workload_id=workload_id, workload=made)
    created: Workload = await stub.CreateWorkload(request)
    return created


async def test_an_update_is_judged_by_what_comes_of_it(mesh: Mesh, stub: Any) -> None:
    there = await create(stub, "there", workload(pools=["pools/b"], priority=0))
    here = await create(stub, "here", workload(pools=["pools/a"], priority=0))
    on_condition(mesh, pools=frozenset({"pools/a"}), max_priority=5)

    async def raise_to(name: str, priority: int) -> None:
        wanted = workload(priority=priority, name=name)
        await stub.UpdateWorkload(pb.UpdateWorkloadRequest(workload=wanted, update_mask=FieldMask(paths=["priority"])))

    await raise_to(here.name, 5)
    for name, priority, unmet in (
        (here.name, 6, "priority 6 is above 5"),
        (there.name, 1, "pools/b is none of pools/a"),  # though the request names no pool
    ):
        with pytest.raises(PermissionDenied) as caught:
            await raise_to(name, priority)
        assert (caught.value.reason, caught.value.metadata["unmet"]) == ("CONDITION_NOT_MET", unmet)
    mesh.change_policy(bindings=(FREELY,))
    await raise_to(there.name, 6)


async def test_a_batch_is_let_in_when_all_of_it_is(mesh: Mesh, stub: Any) -> None:
    on_condition(mesh, pools=frozenset({"pools/a"}))

    def batch(*pools: str) -> pb.BatchCreateWorkloadsRequest:
        made = (workload(pools=[pool] if pool else []) for pool in pools)
        items = [
            pb.CreateWorkloadRequest(workload_id=f"{pool[-1:] or 'x'}{at}", workload=each)
            for at, (pool, each) in enumerate(zip(pools, made, strict=True))
        ]
        return pb.BatchCreateWorkloadsRequest(parent=ACME, requests=items)

    done = await stub.BatchCreateWorkloads(batch("pools/a", "pools/a"))
    assert [each.code for each in done.results] == [0, 0]
    for wrong in (batch("pools/a", "pools/b"), batch("pools/a", "")):
        with pytest.raises(PermissionDenied, match="CONDITION_NOT_MET"):
            await stub.BatchCreateWorkloads(wrong)
    assert len((await stub.ListWorkloads(pb.ListWorkloadsRequest(parent=ACME))).workloads) == 2


async def test_workloads_count_one_by_one_also_in_a_batch(mesh: Mesh, stub: Any) -> None:
    limit(mesh, max_unfinished=3)
    made = await create(stub, "one", workload())
    assert made.creator == ALICE
    items = [pb.CreateWorkloadRequest(workload_id=f"w{at}", workload=workload()) for at in range(4)]
    done = await stub.BatchCreateWorkloads(pb.BatchCreateWorkloadsRequest(parent=ACME, requests=items))
    assert [each.code for each in done.results] == [0, 0, 8, 8]
    assert "at most 3 workloads" in done.results[2].message
    with pytest.raises(ResourceExhausted):
        await create(stub, "two", workload())


async def test_a_serving_workload_grows_only_within_its_creators_devices(mesh: Mesh, stub: Any) -> None:
    made = await create(stub, "one", workload(2, kind=Workload.SERVING, device_milli=1000))
    limit(mesh, max_device_milli=3000)
    wider = workload(3, kind=Workload.SERVING, device_milli=1000)
    wider.name = made.name
    assert (await stub.UpdateWorkload(pb.UpdateWorkloadRequest(workload=wider))).groups[0].min_count == 3
    wider.groups[0].min_count = 4
    with pytest.raises(ResourceExhausted) as caught:
        await stub.UpdateWorkload(pb.UpdateWorkloadRequest(workload=wider))
    assert (caught.value.metadata["used"], caught.value.metadata["wanted"]) == ("3", "1")
    wider.groups[0].min_count = 1
    await stub.UpdateWorkload(pb.UpdateWorkloadRequest(workload=wider))


async def test_what_services_make_counts_for_nobody_here(mesh: Mesh, stub: Any) -> None:
    limit(mesh, max_unfinished=1)
    async with mesh.peer("service/trainer") as peers:
        trainer: Any = SchedulerServiceStub(peers.channel("trainer"))
        for number in range(3):
            request = pb.CreateWorkloadRequest(parent=ACME, workload_id=f"w{number}", workload=workload())
            assert (await trainer.CreateWorkload(request, timeout=10)).creator == ""
    await create(stub, "own", workload())


def test_an_array_asks_for_as_many_devices_as_run_at_once() -> None:
    made = workload(1, device_milli=500)
    made.array.CopyFrom(TaskArray(task_count=100))
    assert devices_of(made) == 50_000
    made.groups[0].max_count = 8
    assert devices_of(made) == 4_000
    assert devices_of(workload(2, most=6)) == 6_000
