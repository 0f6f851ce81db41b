"""The planning RPCs on a running scheduler: the fleet's own pools, input errors, and that nothing is held up."""

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any

import pytest

from lepton.errors import InvalidArgument, Unauthenticated
from lepton.scheduler.v1 import planning_service_pb2 as pb
from lepton.scheduler.v1.planning_service_pb2_grpc import PlanningServiceStub
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.scheduler_service_pb2 import CreatePoolRequest, ListPoolsRequest
from services.scheduler import planning_servicer
from services.scheduler.planning import conversion
from services.scheduler.planning.allocation import Allocation, allocate
from services.scheduler.planning.fleet_sources import sources_of
from services.scheduler.snapshot import Assignment, Demand, Device, Node, Ran, Slice, Snapshot
from tests.harness.agent import GiB, ScriptedAgent
from tests.harness.scheduling import Replica, Workload, workload
from tests.harness.wait import until

Demanded, Offered = pb.PlanAllocationRequest.Demand, pb.PlanAllocationRequest.Source


@pytest.fixture
async def planning(replica: Replica) -> Any:
    async with replica.mesh.client("users/alice") as channel:
        yield PlanningServiceStub(channel)


async def create_fast_pool(replica: Replica) -> None:
    fields: dict[str, Any] = {"class": Pool.PERFORMANCE}
    await replica.admin.CreatePool(CreatePoolRequest(pool_id="fast", pool=Pool(**fields)))


async def test_without_sources_the_fleets_own_pools_are_planned_on(replica: Replica, planning: Any) -> None:
    await create_fast_pool(replica)
    agents = [ScriptedAgent("pools/general/nodes/n1"), ScriptedAgent("pools/general/nodes/n2")]
    agents.append(ScriptedAgent("pools/fast/nodes/n3", cpu_milli=16000))
    for agent in agents:
        await replica.connect(agent)
    wish = Demanded(name="job", amounts={"cpu_milli": 12000, "memory_bytes": 2 * GiB}, classes=["PERFORMANCE"])
    found = await planning.PlanAllocation(pb.PlanAllocationRequest(demands=[wish]))
    assert [(each.source, each.amounts["cpu_milli"]) for each in found.grants] == [("pools/fast", 12000)]
    assert (found.feasible, found.cost) == (True, 12000 + 2 * GiB)
    wish = Demanded(name="job", amounts={"device_milli": 5000}, classes=["GENERAL"])
    found = await planning.PlanAllocation(pb.PlanAllocationRequest(demands=[wish]))
    said = "device_milli: job needs 5000 of class GENERAL, but pools/general (2 x 2000) has 4000: 1000 short"
    assert list(found.violated) == [said]
    assert found.grants[0].per_node["device_milli"] == 2000
    for agent in agents:
        await agent.disconnect()


async def test_ten_nodes_are_eight_general_and_two_fast_and_a_task_gets_500_cores_on_each_of_the_eight(
    replica: Replica, planning: Any
) -> None:
    """The worked example of the documents on a real fleet, with memory for its storage."""
    await create_fast_pool(replica)
    pools = [*["general"] * 8, *["fast"] * 2]
    async with AsyncExitStack() as stack:
        for at, pool in enumerate(pools):
            agent = ScriptedAgent(f"pools/{pool}/nodes/n{at}", cpu_milli=2_000_000, memory_bytes=1000 * GiB)
            await replica.connect(await stack.enter_async_context(agent))
        wish = {"cpu_milli": 4_000_000, "memory_bytes": 2000 * GiB}
        found = await planning.PlanAllocation(
            pb.PlanAllocationRequest(demands=[Demanded(name="task", amounts=wish, classes=["GENERAL"])])
        )
        (grant,) = found.grants
        assert (found.feasible, grant.source, dict(grant.amounts)) == (True, "pools/general", wish)
        assert dict(grant.per_node) == {"cpu_milli": 500_000, "memory_bytes": 250 * GiB}

        task = workload(8, device_milli=0, cpu_milli=500_000, pools=["pools/general"], spread=Workload.SPREAD)
        await replica.submit("task", task)  # and the planner can do so
        placed = await replica.until_state("task", Workload.RUNNING)
        assert {each.node for each in placed.slices} == {f"pools/general/nodes/n{at}" for at in range(8)}

        again = await planning.PlanAllocation(
            pb.PlanAllocationRequest(
                demands=[Demanded(name="more", amounts={"cpu_milli": 13_000_000}, classes=["GENERAL"])]
            )
        )
        (said,) = again.violated
        assert said.endswith("but pools/general (8 x 1500000) has 12000000: 1000000 short"), "what is used is not there"
        assert again.grants[0].per_node["cpu_milli"] == 1_500_000


async def test_what_runs_is_not_there_to_be_planned_with(replica: Replica, planning: Any) -> None:
    async with ScriptedAgent("pools/general/nodes/n1") as one, ScriptedAgent("pools/general/nodes/n2") as two:
        await replica.connect(one)
        await replica.connect(two)
        await replica.submit("digits", workload(1))
        await replica.until_state("digits", Workload.RUNNING)
        wish = Demanded(name="job", amounts={"device_milli": 4000})
        found = await planning.PlanAllocation(pb.PlanAllocationRequest(demands=[wish]))
        assert not found.feasible
        assert {each.source: each.amounts["device_milli"] for each in found.grants} == {
            "pools/general#1": 2000,
            "pools/general#2": 1000,
        }


async def test_scaling_and_balancing_answer(planning: Any) -> None:
    asked = pb.PlanScalingRequest(load=10000, base=8000, max_step=5000, min_step=1000, unit=2500)
    step = await planning.PlanScaling(asked)
    assert (step.feasible, step.target, step.units, step.load_per_unit) == (True, 10000, 4, 2500)
    targets = [pb.PlanBalancingRequest.Target(name=name, weight=weight) for name, weight in (("a", 3), ("b", 0))]
    spread = await planning.PlanBalancing(
        pb.PlanBalancingRequest(policy=pb.PlanBalancingRequest.WEIGHTED, targets=targets, requests=100)
    )
    assert [each.requests for each in spread.shares] == [75, 25]


async def test_why_and_use_are_answered_by_their_owners(replica: Replica, planning: Any) -> None:
    await replica.submit("digits", workload(1))
    async with replica.mesh.client("users/root") as channel:
        root = PlanningServiceStub(channel)
        explained = await root.ExplainWorkload(pb.ExplainWorkloadRequest(name="projects/acme/workloads/digits"))
        assert explained.revision
        used = await root.GetUtilization(pb.GetUtilizationRequest(name="pools/general"))
        assert isinstance(used, pb.GetUtilizationResponse)


async def test_nobody_plans_without_signing_in(replica: Replica) -> None:
    async with replica.mesh.client(None) as channel:
        with pytest.raises(Unauthenticated):
            await PlanningServiceStub(channel).PlanScaling(pb.PlanScalingRequest(load=1))


SOURCE = Offered(name="s", nodes=1, capacity={"cores": 1})
DEMAND = Demanded(name="d", amounts={"cores": 1})
WRONG = {
    "demands": pb.PlanAllocationRequest(),
    "demands[0].amounts": pb.PlanAllocationRequest(demands=[Demanded(name="d")], sources=[SOURCE]),
    'demands[0].amounts["cores"]': pb.PlanAllocationRequest(demands=[Demanded(name="d", amounts={"cores": -1})]),
    'demands[0].amounts["gpus"]': pb.PlanAllocationRequest(demands=[Demanded(name="d", amounts={"gpus": 1})]),
    "demands[0].classes": pb.PlanAllocationRequest(
        demands=[Demanded(name="d", amounts={"cpu_milli": 1}, classes=["FAST"])]
    ),
    "demands[1].name": pb.PlanAllocationRequest(demands=[DEMAND, DEMAND], sources=[SOURCE]),
    "sources[1].name": pb.PlanAllocationRequest(demands=[DEMAND], sources=[SOURCE, SOURCE]),
    "sources[0].nodes": pb.PlanAllocationRequest(demands=[DEMAND], sources=[Offered(name="s")]),
    'sources[0].price["cores"]': pb.PlanAllocationRequest(
        demands=[DEMAND], sources=[Offered(name="s", nodes=1, price={"cores": float("nan")})]
    ),
    "load": pb.PlanScalingRequest(load=-1),
    "min_step": pb.PlanScalingRequest(load=1, max_step=1, min_step=2),
    "min_units": pb.PlanScalingRequest(load=1, unit=1, min_units=3, max_units=2),
    "max_units": pb.PlanScalingRequest(load=1, max_units=2),
    "unit": pb.PlanScalingRequest(load=1e12, unit=1e-3),
    "targets": pb.PlanBalancingRequest(),
    "targets[1].name": pb.PlanBalancingRequest(targets=[pb.PlanBalancingRequest.Target(name="a")] * 2),
}


@pytest.mark.parametrize("field", WRONG)
async def test_a_wrong_field_is_named_with_what_is_right(planning: Any, field: str) -> None:
    request = WRONG[field]
    method = getattr(planning, type(request).__name__.removesuffix("Request"))
    with pytest.raises(InvalidArgument, match="INVALID_FIELD") as failed:
        await method(request)
    assert list(failed.value.fields) == [field]
    assert len(failed.value.fields[field]) > 4


async def test_a_program_that_takes_long_does_not_hold_up_the_service(
    replica: Replica, planning: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Allocation:
        begun.set()
        assert go_on.wait(30)
        return allocate(*arguments)

    monkeypatch.setattr(planning_servicer, "allocate", slow)
    request = pb.PlanAllocationRequest(
        demands=[Demanded(name="d", amounts={"cores": 1})],
        sources=[Offered(name="s", nodes=1, capacity={"cores": 5}, price={"cores": 1})],
    )
    solving = asyncio.ensure_future(planning.PlanAllocation(request))
    await until(begun.is_set)
    await replica.admin.ListPools(ListPoolsRequest())
    assert not solving.done()
    go_on.set()
    assert (await solving).feasible


def node(name: str, cpu_milli: int, *, pool: str = "pools/a", **fields: Any) -> Node:
    return Node(name=name, pool=pool, session="1", cpu_milli=cpu_milli, **fields)


def test_nodes_that_have_equally_much_left_are_one_source() -> None:
    nodes = [node(f"n{at}", 8000, devices=(Device(index=0),)) for at in range(3)]
    nodes += [node("big", 64000), node("cordoned", 8000, is_schedulable=False), node("other", 1000, pool="pools/b")]
    running = Assignment(
        workload="w",
        generation=1,
        pool="pools/a",
        slices=(Slice(index=0, group="g", node="n1", devices=(0,)),),
        sessions={"n1": "1"},
        groups={"g": Ran(demand=Demand(cpu_milli=3000, device_milli=1000), program=b"")},
    )
    snapshot = Snapshot(nodes={each.name: each for each in nodes}, assignments={"w": (running,)})
    found = {
        each.name: (each.nodes, dict(each.capacity), each.kind) for each in sources_of(snapshot, {"pools/b": "EDGE"})
    }
    assert found == {
        "pools/a#1": (1, {"cpu_milli": 64000}, "GENERAL"),
        "pools/a#2": (2, {"cpu_milli": 8000, "device_milli": 1000}, "GENERAL"),
        "pools/a#3": (1, {"cpu_milli": 5000}, "GENERAL"),
        "pools/b": (1, {"cpu_milli": 1000}, "EDGE"),
    }


def test_a_large_busy_fleet_is_rounded_down_to_few_sources() -> None:
    nodes = {f"n{at}": node(f"n{at}", 100_000) for at in range(2000)}
    busy = {
        f"w{at}": (
            Assignment(
                workload=f"w{at}",
                generation=1,
                pool="pools/a",
                slices=(Slice(index=0, group="g", node=f"n{at}"),),
                sessions={f"n{at}": "1"},
                groups={"g": Ran(demand=Demand(cpu_milli=1 + 37 * at), program=b"")},
            ),
        )
        for at in range(2000)
    }
    found = sources_of(Snapshot(nodes=nodes, assignments=busy), {})
    free = sum(100_000 - 1 - 37 * at for at in range(2000))
    assert len(found) <= 65
    assert sum(each.nodes for each in found) <= 2000
    assert 0.95 * free < sum(each.total("cpu_milli") for each in found) <= free


def test_a_pool_without_a_class_is_general() -> None:
    assert conversion.classes_of({"pools/a": Pool()}) == {"pools/a": "GENERAL"}
