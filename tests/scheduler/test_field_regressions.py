"""Bugs that the field has lived through, each under the name of its public report: here they do not happen."""

from dataclasses import replace

import pytest

from services.scheduler.planner import plan
from services.scheduler.planner.verdict import PREEMPTED, RESIZED
from services.scheduler.queue_values import Policy, Queue, Quota
from services.scheduler.snapshot import Reason, SliceState, State
from tests.scheduler.world import World, group, node, workload

HOUR = 3600.0


def all_run(world: World) -> None:
    """Everything that is placed is up."""
    world.settle()
    for name in list(world.assignments):
        for each in world.slices(name) if world.assignments[name] else ():
            if each.state is SliceState.ASSIGNED:
                world.report(name, each.index, SliceState.RUNNING)
    world.settle()


def stop(world: World, *names: str) -> None:
    """What was told to stop has stopped."""
    for name in names or tuple(world.assignments):
        for generation, assignment in world.assignments[name].items():
            following = world.assignments[name].get(generation + 1)
            for each in assignment.slices if assignment.revoked else ():
                if following is None or each.index not in following.kept:
                    world.report(name, each.index, SliceState.STOPPED, generation)


def revoked(world: World, *reasons: str) -> list[str]:
    """Whose present generations are told to stop, and why."""
    return sorted(
        name
        for name, generations in world.assignments.items()
        if any(each.revoked in (reasons or (PREEMPTED, RESIZED)) for each in generations.values())
    )


def cohort(*queues: tuple[str, int], **fields: object) -> tuple[Queue, ...]:
    """Queues that lend to each other."""
    return (
        Queue(name="queues/root"),
        *(
            Queue(
                name=f"queues/{name}",
                parent="queues/root",
                quotas=(Quota(resource="device_milli", nominal=nominal),),
                **fields,  # type: ignore[arg-type]
            )
            for name, nominal in queues
        ),
    )


@pytest.mark.parametrize("sizes", [(3, 2, 2), (4, 3, 1), (2, 3, 4), (1, 5, 3)])
def test_kueue_14543_fair_sharing_comes_to_rest(sizes: tuple[int, int, int]) -> None:
    """Fair sharing chose victims by one rule and gave some of them back by another: two workloads stopped each other
    for ever. Every rule is checked again on the victims that are left, so nobody is stopped twice for nothing."""
    world = World(node("a", 8), queues=cohort(("x", 2000), ("y", 2000), ("z", 4000)))
    for at, (queue, size) in enumerate(zip("xyz", sizes, strict=True)):
        world.submit(*(workload(f"{queue}{one}", group(size), queue=f"queues/{queue}") for one in range(3)))
        world.now += at * 100.0
        all_run(world)
    for _ in range(12):
        stop(world)
        all_run(world)
        world.check()
        world.now += 400.0
    assert all(each.preemptions <= 1 for each in world.workloads.values())
    before = {name: each.preemptions for name, each in world.workloads.items()}
    for _ in range(6):
        stop(world)
        all_run(world)
        world.now += HOUR
    assert {name: each.preemptions for name, each in world.workloads.items()} == before


def test_kueue_13662_freed_quota_is_not_stolen_while_the_second_victim_still_stops() -> None:
    """Two victims were stopped for one workload; what the first gave back was taken by a third party before the second
    had gone, and more had to be stopped. What is freed is reserved, in the same write that stops the victims."""
    world = World(node("a", 8), queues=cohort(("x", 2000), ("y", 0), ("z", 0)))
    world.submit(*(workload(f"y{at}", queue="queues/y") for at in range(2)))
    all_run(world)
    world.now = 1000.0
    world.submit(workload("x0", group(2), queue="queues/x"))
    world.settle()
    assert revoked(world) == ["y0", "y1"]
    stop(world, "y0")
    world.submit(workload("z0", queue="queues/z", priority=9), workload("x1", queue="queues/x"))
    all_run(world)
    assert world.state("z0") == world.state("x1") == (State.PENDING, Reason.WAITING_FOR_QUOTA)
    stop(world, "y1")
    all_run(world)
    assert world.state("x0")[0] is State.RUNNING
    assert world.state("z0")[0] is world.state("x1")[0] is State.PENDING
    world.check()


@pytest.mark.parametrize("names", ["abcdefgh", "hgfedcba", "cahfbged"])
def test_kueue_6763_equals_are_told_apart_by_a_total_order(names: str) -> None:
    """Among equal candidates a random tie-break picked others at each look, and both picks were stopped. Every
    comparison ends in a name, so that the same snapshot, in whatever order it is given, names the same victims."""
    world = World(*(node(f"n{at}", 2) for at in range(4)))
    world.submit(*(workload(name, submitted=1) for name in sorted(names)))
    all_run(world)
    world.now = 1000.0
    world.submit(workload("high", group(2, 2000), priority=1, submitted=99))
    snapshot = world.snapshot()
    turned = replace(
        snapshot,
        workloads={name: snapshot.workloads[name] for name in (*names, "high")},
        assignments={name: snapshot.assignments[name] for name in names},
    )
    assert plan(turned, world.now) == plan(snapshot, world.now)
    world.settle()
    assert len(revoked(world)) == 4
    victims = revoked(world)
    for _ in range(3):
        world.plan()
    assert revoked(world) == victims


@pytest.mark.parametrize("priority", [0, 1])
def test_volcano_5984_one_slice_is_wanted_and_one_is_taken(priority: int) -> None:
    """A task that wanted one place made a gang give up its whole surplus of ten. A victim gives up slice by slice, and
    what is not needed after all is given back."""
    world = World(node("a", 12))
    world.submit(workload("elastic", group(2, most=12)))
    all_run(world)
    assert len(world.slices("elastic")) == 12
    world.now = 1000.0
    world.submit(workload("small", priority=priority))
    world.settle()
    assert dict(world.workloads["elastic"].granted) == {"worker": 11}
    stop(world, "elastic")
    all_run(world)
    assert (len(world.slices("elastic")), len(world.slices("small"))) == (11, 1)
    world.check()


def test_volcano_5984_one_of_ten_goes() -> None:
    """The same with ten workloads of one slice each."""
    world = World(node("a", 10))
    world.submit(*(workload(f"w{at}") for at in range(10)))
    all_run(world)
    world.now = 1000.0
    world.submit(workload("small", priority=1))
    world.settle()
    assert len(revoked(world)) == 1


def test_volcano_3291_a_gang_uses_the_empty_node_as_well() -> None:
    """A gang that fits on an empty node and one that is made free was never placed, for only the nodes of victims were
    looked at. A gang is one placement on what is free and on what is being freed, together."""
    world = World(*(node(f"n{at}", 4) for at in range(3)))
    world.submit(*(workload(f"low{at}", group(1, 4000)) for at in range(2)))
    all_run(world)
    world.now = 1000.0
    world.submit(workload("gang", group(2, 4000), priority=1))
    world.settle()
    assert len(revoked(world)) == 1, "the other half of it goes to the empty node"
    stop(world)
    all_run(world)
    assert world.state("gang")[0] is State.RUNNING
    used = {each.node for name, generations in world.assignments.items() if generations for each in world.slices(name)}
    assert len(used) == 3
    world.check()


@pytest.mark.parametrize("size", [1, 8])
def test_kai_1565_as_much_is_evicted_as_is_asked_for(size: int) -> None:
    """Somebody asked for 48 devices, and 376 were taken from others. No more goes than makes room, and what goes is
    bounded by what is asked for."""
    nodes = 47
    world = World(*(node(f"n{at:02}", 8) for at in range(nodes)))
    world.submit(*(workload(f"low{at:03}", group(1, size * 1000)) for at in range(nodes * 8 // size)))
    all_run(world)
    world.now = 1000.0
    world.submit(workload("high", group(6, 8000), priority=1))
    planned = world.plan()
    stopped = [each for each in planned.decisions if any(one.reason == PREEMPTED for one in each.revoke)]
    taken = sum(len(one.devices) for each in stopped for one in each.slices)
    assert (taken, len(stopped)) == (48, 48 // size)
    world.submit(workload("less", group(2, 8000), priority=1))
    planned = world.plan()
    stopped = [each for each in planned.decisions if any(one.reason == PREEMPTED for one in each.revoke)]
    assert sum(len(one.devices) for each in stopped for one in each.slices) == 16


@pytest.mark.parametrize("policy", [Policy.FIFO, Policy.FAIR_SHARE])
@pytest.mark.parametrize("is_strict", [False, True])
def test_skypilot_5493_who_comes_first_is_served_first(policy: Policy, is_strict: bool) -> None:
    """Waiting jobs started in whatever order their controllers woke up. One planner looks at all of them, in the order
    of their queue: each place that becomes free goes to the oldest."""
    queue = Queue(name="queues/q", policy=policy, is_strict=is_strict)
    world = World(node("a", 2), queues=(queue,))
    names = [f"job-{at}" for at in (7, 3, 9, 1, 5, 8, 2)]  # their names say nothing about their age
    world.submit(*(workload(name, queue="queues/q") for name in names))
    started: list[str] = []
    for _ in range(12):
        all_run(world)
        world.now += 10.0
        begun = [name for name in names if world.workloads[name].state is State.RUNNING and name not in started]
        started += begun
        if started and (running := [each for each in started if world.workloads[each].state is State.RUNNING]):
            world.report(running[0], 0, SliceState.SUCCEEDED)
    assert started == names


def test_skypilot_5493_a_smaller_one_that_comes_later_does_not_pass_in_a_strict_queue() -> None:
    """The same where the oldest does not fit yet."""
    queue = Queue(name="queues/q", policy=Policy.FIFO, is_strict=True)
    world = World(node("a", 2), queues=(queue,))
    world.submit(workload("runs", queue="queues/q"))
    all_run(world)
    world.submit(workload("wide", group(2), queue="queues/q"), workload("narrow", queue="queues/q"))
    all_run(world)
    assert [world.workloads[name].state for name in ("wide", "narrow")] == [State.PENDING, State.PENDING]
    world.report("runs", 0, SliceState.SUCCEEDED)
    all_run(world)
    assert world.state("wide")[0] is State.RUNNING
    assert world.state("narrow")[0] is State.PENDING
