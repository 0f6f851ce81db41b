"""Taints that are set while work runs: what has to leave, what may stay, and that nothing comes back."""

from dataclasses import replace

import pytest

from services.scheduler.snapshot import Effect, Kind, Reason, SliceState, State, Taint, Toleration
from tests.scheduler.world import World, group, node, workload

REPAIR = Taint(key="repair", value="", effect=Effect.NO_EXECUTE)


def tainted(world: World, name: str, taint: Taint) -> None:
    full = f"pools/p/nodes/{name}"
    world.nodes[full] = replace(world.nodes[full], taints=(taint,))


def told(world: World, name: str, state: SliceState, generation: int = 1) -> None:
    """The agents say the same of every slice."""
    for each in world.assignments[name][generation].slices:
        world.report(name, each.index, state, generation)
    world.settle()


def running(world: World, name: str) -> set[str]:
    """The nodes on which the wanted generation of a workload runs."""
    return {each.node.rpartition("/")[2] for each in world.slices(name)}


def test_a_gang_leaves_as_a_whole_and_starts_where_it_may() -> None:
    world = World(node("a", 2), node("b", 2), node("c", 4))
    world.submit(workload("gang", group(4)))
    world.settle()
    (only,) = running(world, "gang")
    assert only == "c"
    told(world, "gang", SliceState.RUNNING)
    tainted(world, "c", REPAIR)
    world.settle()
    assert world.assignments["gang"][1].revoked == "banished"
    assert "pools/p/nodes/c has a taint" in world.workloads["gang"].message
    told(world, "gang", SliceState.STOPPED)
    assert (world.workloads["gang"].generation, running(world, "gang")) == (2, {"a", "b"})
    assert world.workloads["gang"].restarts == 0


def test_replicas_leave_one_by_one_and_the_others_stay() -> None:
    world = World(node("a", 1), node("b", 1), node("c", 1))
    world.submit(workload("web", group(2), kind=Kind.SERVING))
    world.settle()
    told(world, "web", SliceState.RUNNING)
    before = running(world, "web")
    gone = min(before)
    (stays,) = before - {gone}
    tainted(world, gone, REPAIR)
    world.settle()
    (free,) = {"a", "b", "c"} - before
    assert running(world, "web") == {stays, free}
    kept = world.assignments["web"][2].kept
    assert [each.node.rpartition("/")[2] for each in world.slices("web") if each.index in kept] == [stays]


def test_without_another_place_it_leaves_and_waits() -> None:
    world = World(node("a", 2))
    world.submit(workload("gang", group(2)), workload("web", group(1, 0, cpu_milli=1), kind=Kind.SERVING))
    world.settle()
    told(world, "gang", SliceState.RUNNING)
    told(world, "web", SliceState.RUNNING)
    tainted(world, "a", REPAIR)
    world.settle()
    for name in ("gang", "web"):
        assert world.assignments[name][1].revoked
        told(world, name, SliceState.STOPPED)
    for name in ("gang", "web"):
        assert world.workloads[name].state is State.PENDING
        assert world.workloads[name].reason in (Reason.NO_MATCHING_POOL, Reason.WAITING_FOR_CAPACITY)


@pytest.mark.parametrize(
    ("taint", "tolerations"),
    [
        pytest.param(REPAIR, (Toleration(key="repair", value=""),), id="tolerated"),
        pytest.param(REPAIR, (Toleration(key="", value=""),), id="tolerates all"),
        pytest.param(replace(REPAIR, effect=Effect.NO_SCHEDULE), (), id="no new work"),
        pytest.param(replace(REPAIR, effect=Effect.PREFER_NO_SCHEDULE), (), id="a last resort"),
    ],
)
@pytest.mark.parametrize("kind", [Kind.TRAINING, Kind.SERVING, Kind.BATCH])
def test_what_may_stay_is_not_disturbed(kind: Kind, taint: Taint, tolerations: tuple[Toleration, ...]) -> None:
    world = World(node("a", 2), node("b", 2))
    world.submit(workload("w", group(2), kind=kind, tolerations=tolerations))
    world.settle()
    told(world, "w", SliceState.RUNNING)
    (where,) = running(world, "w")
    tainted(world, where, taint)
    world.settle()
    assert (world.workloads["w"].generation, running(world, "w")) == (1, {where})
    assert all(each.state is SliceState.RUNNING for each in world.slices("w"))
