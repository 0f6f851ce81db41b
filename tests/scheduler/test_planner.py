"""The planner by tables: who goes first, where, and why not."""

from dataclasses import replace

import pytest

from lepton.scheduler.v1 import workload_pb2
from services.scheduler.lifecycle import NEXT
from services.scheduler.planner import plan
from services.scheduler.snapshot import Group, Kind, Node, Reason, SliceState, State
from tests.scheduler.world import FENCE_S, World, group, node, workload


def _nodes(world: World, name: str) -> list[str]:
    return [each.node.rpartition("/")[2] for each in world.slices(name)]


def test_higher_priority_goes_first_then_submission_then_name() -> None:
    world = World(node("n", 1))
    world.submit(
        workload("late", submitted=3),
        workload("b", submitted=1),
        workload("a", submitted=1),
        workload("urgent", priority=5, submitted=9),
    )
    order = []
    for _ in range(4):
        world.settle()
        running = [name for name, each in world.workloads.items() if each.state is State.ASSIGNED]
        order += running
        world.report(running[0], 0, SliceState.SUCCEEDED)
    assert order == ["urgent", "a", "b", "late"]


@pytest.mark.parametrize(
    ("nodes", "wanted", "expected"),
    [
        pytest.param([node("a", 8), node("b", 4)], group(4), ["b"] * 4, id="the tightest node that takes all"),
        pytest.param([node("a", 2), node("b", 4), node("c", 2)], group(6), ["b"] * 4 + ["a"] * 2, id="fewest nodes"),
        pytest.param([node("a", 2), node("b", 2)], group(4), ["a", "a", "b", "b"], id="neighbours share a node"),
        pytest.param([node("a", 4), node("b", 4)], group(1, 3000), ["a"], id="ties go by name"),
        pytest.param([node("a", 3), node("b", 4)], group(2, 2000), ["b", "b"], id="whole devices of one node"),
        pytest.param([node("a", 1, cpu_milli=100), node("b", 1)], group(1, 1000, cpu_milli=200), ["b"], id="cpu"),
        pytest.param(
            [node("a", 8, model="A100"), node("b", 8, model="H200")],
            group(1, device_models=frozenset({"H200"})),
            ["b"],
            id="model",
        ),
        pytest.param([node("a", 1)], group(1, most=8), ["a"], id="elastic: as many as fit"),
    ],
)
def test_a_gang_goes_to(nodes: list[Node], wanted: Group, expected: list[str]) -> None:
    world = World(*nodes)
    world.submit(workload("w", wanted))
    world.settle()
    world.check()
    assert _nodes(world, "w") == expected


def test_shares_gather_on_the_fullest_device_and_never_span_two() -> None:
    world = World(node("a", 2))
    for name in ("w1", "w2", "w3"):
        world.submit(workload(name, group(1, 400)))
        world.settle()
    assert [world.slices(name)[0].devices for name in ("w1", "w2", "w3")] == [(0,), (0,), (1,)]
    world.submit(workload("big", group(1, 700)))  # 800 are free, but as 200 + 600
    world.settle()
    assert world.state("big") == (State.PENDING, Reason.FRAGMENTED)
    world.check()


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    world = World(node("a", 3))
    world.submit(workload("w", group(4)))
    world.settle()
    assert world.state("w") == (State.PENDING, Reason.WAITING_FOR_CAPACITY)
    assert "room for 3 of 4 slices" in world.workloads["w"].message
    assert "1 device (4 needed, 3 free)" in world.workloads["w"].message
    assert not world.assignments["w"]


def test_a_gang_stays_within_one_pool() -> None:
    pools = ("pools/p", "pools/q")
    world = World(node("a", 2), node("b", 2, pool="pools/q"), pools=pools)
    world.submit(workload("w", group(4)))
    world.settle()
    assert world.state("w") == (State.PENDING, Reason.WAITING_FOR_CAPACITY)


@pytest.mark.parametrize(
    ("wished", "expected"),
    [((), "pools/p"), (("pools/q", "pools/p"), "pools/q"), (("pools/none", "pools/p"), "pools/p")],
)
def test_pools_are_tried_in_order_of_preference(wished: tuple[str, ...], expected: str) -> None:
    world = World(node("a"), node("b", pool="pools/q"), pools=("pools/p", "pools/q"))
    world.submit(workload("w", pools=wished))
    world.settle()
    assert world.assignments["w"][1].pool == expected


def test_several_groups_are_placed_together_with_ranks_group_by_group() -> None:
    world = World(node("a", 2), node("b", 2))
    world.submit(workload("w", group(1, 0, name="head"), group(3, name="worker", most=9)))
    world.settle()
    assert [each.group for each in world.slices("w")] == ["head", "worker", "worker", "worker", "worker"]
    assert [each.index for each in world.slices("w")] == [0, 1, 2, 3, 4]
    world.check()


@pytest.mark.parametrize(
    ("wished", "wanted", "reason", "words"),
    [
        (("pools/none",), group(1), Reason.NO_MATCHING_POOL, "none of the allowed pools exists: pools/none"),
        ((), group(1, 9000), Reason.NO_MATCHING_POOL, "can ever hold a slice of worker, which needs 9 devices"),
        ((), group(1, device_models=frozenset({"H200"})), Reason.NO_MATCHING_POOL, "model H200"),
        ((), group(17), Reason.WAITING_FOR_CAPACITY, "room for 16 of 17"),
        ((), group(1, 8000), Reason.FRAGMENTED, "room for 0 of 1"),
    ],
)
def test_a_pending_workload_says_why(wished: tuple[str, ...], wanted: Group, reason: Reason, words: str) -> None:
    world = World(node("a"), node("b"))
    if reason is Reason.FRAGMENTED:
        world.submit(workload("small", group(2, 5000)))  # five of eight on each node
        world.settle()
        world.workloads["small"] = replace(world.workloads["small"], name="small")
        wanted = group(1, 6000)
    world.submit(workload("w", wanted, pools=wished))
    world.settle()
    assert world.state("w") == (State.PENDING, reason)
    assert words in world.workloads["w"].message


def test_what_does_not_fit_does_not_hold_up_what_does() -> None:
    world = World(node("a", 2))
    world.submit(workload("large", group(3), priority=9), workload("small", group(1)))
    world.settle()
    assert world.state("large")[0] is State.PENDING
    assert world.state("small")[0] is State.ASSIGNED


def test_a_cordoned_node_gets_nothing_new() -> None:
    world = World(replace(node("a"), is_schedulable=False))
    world.submit(workload("w"))
    world.settle()
    assert world.state("w")[0] is State.PENDING


def test_a_lost_nodes_gang_waits_for_the_fence() -> None:
    world = World(node("a", 1), node("b", 1), node("c", 1))
    world.submit(workload("w", group(2)))
    world.settle()
    lost = world.slices("w")[0].node
    world.now = 100.0
    world.lose(lost)
    planned = world.plan()
    assert not planned.decisions
    assert planned.wake_at == 100.0 + FENCE_S
    world.now = 100.0 + FENCE_S - 0.01
    assert not world.plan().decisions
    world.now = 100.0 + FENCE_S
    world.plan()
    assert world.assignments["w"][1].revoked == "lost"
    assert world.state("w")[0] is State.ASSIGNED  # the survivor still runs
    world.report("w", 1, SliceState.STOPPED)
    world.settle()
    assert world.workloads["w"].generation == 2
    assert lost not in {each.node for each in world.slices("w")}
    assert world.workloads["w"].restarts == 0


def test_a_node_that_returns_within_the_fence_costs_nothing() -> None:
    world = World(node("a", 1), node("b", 1))
    world.submit(workload("w"))
    world.settle()
    world.lose("pools/p/nodes/a")
    world.now = FENCE_S / 2
    world.settle()
    world.restore(node("a", 1))
    world.now = FENCE_S * 3
    world.settle()
    assert world.workloads["w"].generation == 1


def test_a_slice_that_succeeded_in_a_nodes_former_life_does_not_hold_up_its_replacement_there() -> None:
    world = World(node("a", 2))
    world.submit(workload("w", group(2), kind=Kind.BATCH))
    world.settle()
    world.report("w", 0, SliceState.SUCCEEDED)
    world.restore(replace(node("a", 2), session="another life"))
    world.settle()
    assert world.workloads["w"].generation == 2
    world.report("w", 1, SliceState.SUCCEEDED)
    world.settle()
    assert world.state("w")[0] is State.SUCCEEDED


def test_backoff_grows_with_restarts() -> None:
    world = World(node("a", 1))
    world.submit(workload("w", max_restarts=9))
    for expected in (0.0, 1.0, 2.0, 4.0):
        world.settle()
        generation = world.workloads["w"].generation
        world.report("w", 0, SliceState.FAILED)
        world.settle()
        if expected:
            assert world.state("w") == (State.PENDING, Reason.BACKING_OFF)
            assert world.plan().wake_at == world.now + expected
            world.now += expected
            world.settle()
        assert world.workloads["w"].generation == generation + 1


def test_the_life_of_a_workload_is_closed() -> None:
    assert set(NEXT) == set(State)
    assert {after for following in NEXT.values() for after in following} == set(State)


def test_the_numbers_are_the_protos() -> None:

    for mine, theirs in (
        (Kind, workload_pb2.Workload.Kind),
        (State, workload_pb2.Workload.State),
        (SliceState, workload_pb2.Slice.State),
    ):
        assert {each.name: each.value for each in mine} == {name: number for name, number in theirs.items() if number}
    reasons = {name: number for name, number in workload_pb2.Workload.PendingReason.items() if number}
    assert {each.name: each.value for each in Reason if each} == reasons


def test_planning_is_pure() -> None:
    world = World(node("a"))
    world.submit(workload("w"))
    snapshot = world.snapshot()
    assert plan(snapshot, 0.0) == plan(snapshot, 0.0)
    assert world.workloads["w"].state is State.PENDING
