"""A plan that may place so many at the most: the same ones first, and in the end the same as without a limit."""

from dataclasses import replace

from services.scheduler.planner import Memory, Plan, plan
from services.scheduler.snapshot import Demand, Device, Group, Kind, Node, Reason, Snapshot, State, Workload

NODES, WAITING, MOST, NOW = 6, 40, 7, 100.0


def node(at: int) -> Node:
    return Node(
        name=f"pools/p/nodes/n{at}",
        pool="pools/p",
        session="s",
        cpu_milli=64_000,
        memory_bytes=1 << 38,
        devices=tuple(Device(index=each, model="A") for each in range(4)),
        is_schedulable=True,
    )


def waiting(at: int) -> Workload:
    group = Group(name="g", min_count=1, max_count=1, demand=Demand(device_milli=1000), program=b"")
    return Workload(
        name=f"projects/a/workloads/w{at:03}",
        kind=Kind.BATCH,
        groups=(group,),
        pools=(),
        priority=at % 3,
        submitted=at,
        max_restarts=0,
        state=State.PENDING,
        reason=Reason.PENDING_EVALUATION,
        message="",
        generation=0,
        restarts=0,
    )


def fleet() -> Snapshot:
    nodes = [node(at) for at in range(NODES)]
    return Snapshot(
        pools=frozenset({"pools/p"}),
        nodes={each.name: each for each in nodes},
        workloads={each.name: each for each in map(waiting, range(WAITING))},
        assignments={},
        gone={},
        fence_s=10.0,
    )


def placed(planned: Plan) -> dict[str, tuple[object, ...]]:
    return {each.workload: each.placement.slices for each in planned.decisions if each.placement is not None}


def test_the_first_ones_are_placed_and_another_plan_is_wanted_at_once() -> None:
    whole, part = plan(fleet(), NOW), plan(fleet(), NOW, most=MOST)
    first = sorted(fleet().workloads.values(), key=lambda each: (-each.priority, each.submitted))[:MOST]
    assert set(placed(part)) == {each.name for each in first}
    assert placed(part).items() <= placed(whole).items()
    assert part.wake_at == NOW
    assert len(placed(whole)) == NODES * 4
    assert whole.wake_at is None


def test_those_that_were_not_looked_at_keep_their_reason() -> None:
    assert {each.workload for each in plan(fleet(), NOW, most=MOST).decisions} == set(
        placed(plan(fleet(), NOW, most=MOST))
    )


def test_a_limit_that_is_not_met_changes_nothing() -> None:
    assert plan(fleet(), NOW, most=WAITING + 1) == plan(fleet(), NOW)


def test_plan_after_plan_all_that_fits_is_placed_in_the_order_of_the_queue() -> None:
    memory, snapshot = Memory(), fleet()
    order: list[str] = []
    for _ in range(NODES * 4 // MOST + 1):
        found = placed(plan(snapshot, NOW, memory, MOST))
        order += sorted(
            found, key=lambda name: (-snapshot.workloads[name].priority, snapshot.workloads[name].submitted)
        )
        left = {name: each for name, each in snapshot.workloads.items() if name not in found}
        # What has got a place is as good as gone here, and its node's devices with it.
        taken = [(each.node, each.devices) for slices in found.values() for each in slices]  # type: ignore[attr-defined]
        nodes = dict(snapshot.nodes)
        for name, devices in taken:
            kept = tuple(each for each in nodes[name].devices if each.index not in devices)
            nodes[name] = replace(nodes[name], devices=kept)
        snapshot = replace(snapshot, workloads=left, nodes=nodes)
    first = sorted(fleet().workloads.values(), key=lambda each: (-each.priority, each.submitted))
    assert order == [each.name for each in first[: NODES * 4]]
