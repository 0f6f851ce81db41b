"""Arrays: tasks of one workload that are placed, run, end and are tried again one by one; the planner alone."""

from dataclasses import replace

import pytest

from services.scheduler.explain.estimate import Spread
from services.scheduler.explain.explanation import explain
from services.scheduler.lifecycle import FINAL
from services.scheduler.planner.verdict import DRAINED, PREEMPTED, RESIZED
from services.scheduler.queue_values import Queue, Quota, Stop
from services.scheduler.snapshot import Effect, Kind, Reason, SliceState, State, Taint, TaskArray, Workload
from tests.scheduler.world import FENCE_S, World, group, node, workload

A = "projects/acme/workloads/a"
B = "projects/acme/workloads/b"


def array(name: str, tasks: int, at_once: int = 100, **fields: object) -> Workload:
    """An array whose tasks take one device each."""
    made = workload(name, group(1, most=at_once), kind=Kind.BATCH, **fields)
    return replace(made, array=TaskArray(count=tasks))


def live(world: World, name: str = A) -> list[int]:
    """The tasks that have a place."""
    generations = world.assignments[name]
    newest = generations[max(generations)] if generations else None
    return [each.index for each in newest.slices if each.state not in FINAL] if newest else []


def end(world: World, position: int, state: SliceState = SliceState.SUCCEEDED, name: str = A) -> None:
    """A task ends, and the planner hears of it."""
    world.report(name, position, state)
    world.plan()
    world.check()


def standing(world: World, name: str = A) -> tuple[int, int, int]:
    """How many have been placed, have ended well, and have failed."""
    found = world.workloads[name].array
    assert found is not None
    return found.placed, found.succeeded, found.failed


def test_tasks_take_the_places_that_are_freed_in_one_generation() -> None:
    world = World(node("n1", 2))
    world.submit(array(A, 5))
    world.plan()
    assert live(world) == [0, 1]
    assert world.workloads[A].message == "its other tasks wait for room"
    end(world, 1)
    assert live(world) == [0, 2]
    end(world, 0)
    end(world, 2)
    assert live(world) == [3, 4]
    assert world.workloads[A].generation == 1
    end(world, 3)
    end(world, 4)
    assert world.state(A) == (State.SUCCEEDED, Reason.NONE)
    assert standing(world) == (5, 5, 0)
    assert not world.assignments[A]


def test_no_more_run_at_once_than_may() -> None:
    world = World(node("n1", 8))
    world.submit(array(A, 5, at_once=3))
    world.plan()
    assert live(world) == [0, 1, 2]
    assert world.workloads[A].reason is Reason.NONE, "it waits for itself alone"
    end(world, 1)
    assert live(world) == [0, 2, 3]


def test_a_failed_task_is_tried_again_and_the_others_go_on() -> None:
    world = World(node("n1", 2))
    world.submit(array(A, 4, max_restarts=1))
    world.plan()
    end(world, 0, SliceState.FAILED)
    assert live(world) == [0, 1], "the first restart is at once, and before those that have never run"
    end(world, 0, SliceState.FAILED)
    assert live(world) == [1, 2]
    assert standing(world) == (3, 0, 1)
    for position in (1, 2, 3):
        end(world, position)
    assert world.workloads[A].state is State.FAILED
    assert "1 of 4 tasks failed" in world.workloads[A].message


def test_a_second_restart_waits_and_holds_up_nobody() -> None:
    world = World(node("n1", 1))
    world.submit(array(A, 2, max_restarts=3))
    world.plan()
    end(world, 0, SliceState.FAILED)
    end(world, 0, SliceState.FAILED)
    assert live(world) == [1], "its backoff is one second"
    end(world, 1)
    assert live(world) == []
    assert world.state(A)[0] is State.PENDING
    planned = world.plan()
    assert planned.wake_at == world.now + 1.0
    world.now += 1.0
    world.plan()
    assert live(world) == [0]


def test_tasks_of_a_lost_node_run_again_after_the_fence_and_never_twice_at_once() -> None:
    world = World(node("n1", 2), node("n2", 2))
    world.submit(array(A, 6))
    world.plan()
    here = [each.index for each in world.slices(A) if each.node.endswith("n1")]
    world.lose("pools/p/nodes/n1")
    world.plan()
    assert live(world) == [0, 1, 2, 3], "they may still run"
    end(world, next(each for each in live(world) if each not in here))
    assert set(here) <= set(live(world))
    world.now += FENCE_S
    world.plan()
    assert not [each for each in world.slices(A) if each.node.endswith("n1")]
    world.restore(replace(node("n1", 2), session="another"))
    world.plan()
    assert set(here) <= set(live(world)), "what was lost goes first"
    assert world.workloads[A].restarts == 0
    while world.workloads[A].state is not State.SUCCEEDED:
        for position in live(world):
            world.report(A, position, SliceState.SUCCEEDED)
        world.plan()
    assert standing(world) == (6, 6, 0)


def test_a_waiting_task_comes_before_a_less_urgent_workload() -> None:
    world = World(node("n1", 2))
    world.submit(array(A, 5, priority=1), workload(B, group(1), kind=Kind.BATCH))
    world.plan()
    end(world, 0)
    assert live(world) == [1, 2]
    assert world.workloads[B].state is State.PENDING


def test_a_more_urgent_workload_takes_back_as_many_places_as_it_needs() -> None:
    world = World(node("n1", 4))
    world.submit(array(A, 9))
    world.plan()
    for position in live(world):
        world.report(A, position, SliceState.RUNNING)
    world.now += 100.0
    world.submit(workload(B, group(2), priority=5))
    decisions = {each.workload: each for each in world.plan().decisions}
    assert [each.reason for each in decisions[A].revoke] == [RESIZED]
    assert live(world) == [0, 1]
    for position in (2, 3):
        world.report(A, position, SliceState.STOPPED, generation=1)
    world.plan()
    assert world.workloads[B].state is State.ASSIGNED
    world.settle()
    world.check()
    assert live(world) == [0, 1]
    end(world, 0)
    assert live(world) == [1, 2], "what was stopped comes first, and has not failed"
    assert standing(world)[2] == 0


def test_an_urgent_array_has_others_stopped_for_many_of_its_tasks_at_once() -> None:
    world = World(node("n1", 4))
    world.submit(workload(B, group(4)))
    world.settle()
    for each in world.slices(B):
        world.report(B, each.index, SliceState.RUNNING)
    world.settle()
    world.now += 100.0
    world.submit(array(A, 9, priority=5))
    decisions = {each.workload: each for each in world.plan().decisions}
    assert [each.reason for each in decisions[B].revoke] == [PREEMPTED]
    assert len(world.reservations[A].slices) == 4
    for each in world.assignments[B][1].slices:
        world.report(B, each.index, SliceState.STOPPED, generation=1)
    world.plan()
    assert live(world) == [0, 1, 2, 3]


def test_queues_of_equal_weight_get_equal_parts_of_the_fleet() -> None:
    queues = tuple(
        Queue(
            name=f"queues/{each}", projects=(f"projects/{each}",), quotas=(Quota(resource="device_milli", nominal=0),)
        )
        for each in "xy"
    )
    top = Queue(name="queues/top", quotas=(Quota(resource="device_milli", nominal=8000),))
    world = World(node("n1", 8), queues=(top, *(replace(each, parent="queues/top") for each in queues)))
    world.submit(array("projects/x/workloads/a", 50), array("projects/y/workloads/a", 50))
    world.plan()
    assert [len(live(world, f"projects/{each}/workloads/a")) for each in "xy"] == [4, 4]
    world.check()


def test_in_a_strict_queue_nobody_passes_tasks_that_wait() -> None:
    queue = Queue(name="queues/default", is_strict=True)
    world = World(node("n1", 2), queues=(queue,))
    world.submit(array(A, 3), workload(B, group(1, 0, cpu_milli=1), kind=Kind.BATCH))
    world.plan()
    assert live(world) == [0, 1]
    assert world.state(B) == (State.PENDING, Reason.BEHIND_RESERVATION)
    world.queues["queues/default"] = replace(queue, is_strict=False)
    world.plan()
    assert world.workloads[B].state is State.ASSIGNED


def test_tasks_leave_a_node_with_a_taint_that_lets_them_run_no_longer() -> None:
    world = World(node("n1", 2), node("n2", 2))
    world.submit(array(A, 4))
    world.plan()
    there = {each.index for each in world.slices(A) if each.node.endswith("n2")}
    tainted = replace(node("n2", 2), taints=(Taint(key="repair", effect=Effect.NO_EXECUTE),))
    world.nodes[tainted.name] = tainted
    world.plan()
    assert set(live(world)) == {0, 1, 2, 3} - there
    world.plan()
    assert set(live(world)) == {0, 1, 2, 3} - there, "they may still run"
    for position in there:
        world.report(A, position, SliceState.STOPPED, generation=1)
    world.settle()
    end(world, min(live(world)))
    assert there & set(live(world))
    assert standing(world)[2] == 0


def test_a_held_queue_starts_no_more_tasks_and_a_drained_one_stops_them() -> None:
    queue = Queue(name="queues/default")
    world = World(node("n1", 2), queues=(queue,))
    world.submit(array(A, 5))
    world.plan()
    world.queues["queues/default"] = replace(queue, stop=Stop.HOLD)
    end(world, 0)
    assert live(world) == [1]
    world.queues["queues/default"] = replace(queue, stop=Stop.HOLD_AND_DRAIN)
    decision = world.plan().decisions[0]
    assert [each.reason for each in decision.revoke] == [DRAINED]
    world.report(A, 1, SliceState.STOPPED)
    world.settle()
    assert world.state(A)[0] is State.PENDING
    world.queues["queues/default"] = queue
    world.settle()
    assert live(world) == [1, 2]
    assert world.workloads[A].generation == 2


def test_a_cancelled_array_ends_when_its_tasks_have_stopped() -> None:
    world = World(node("n1", 2))
    world.submit(array(A, 5))
    world.plan()
    end(world, 0)
    world.workloads[A] = replace(world.workloads[A], state=State.CANCELLING)
    world.plan()
    assert world.state(A)[0] is State.CANCELLING
    for position in (1, 2):
        world.report(A, position, SliceState.STOPPED)
    world.settle()
    assert world.state(A)[0] is State.CANCELLED
    assert standing(world)[1] == 1


def test_what_was_counted_while_all_of_it_is_stopped_is_counted_once() -> None:
    """A task that ends well while its generation is being stopped has ended well."""
    world = World(node("n1", 2))
    world.submit(array(A, 3))
    world.plan()
    world.nodes["pools/p/nodes/n1"] = replace(node("n1", 2), taints=(Taint(key="repair", effect=Effect.NO_EXECUTE),))
    world.plan()
    world.report(A, 0, SliceState.SUCCEEDED)
    world.report(A, 1, SliceState.STOPPED)
    world.settle()
    assert standing(world) == (2, 1, 0)
    world.nodes["pools/p/nodes/n1"] = node("n1", 2)
    world.settle()
    assert live(world) == [1, 2]


@pytest.mark.parametrize("count", [1, 64, 500])
def test_an_array_costs_one_decision_however_many_tasks_it_has(count: int) -> None:
    world = World(node("n1", 0, cpu_milli=1_000_000))
    made = workload(A, group(1, 0, most=1000, cpu_milli=1), kind=Kind.BATCH)
    world.submit(replace(made, array=TaskArray(count=count)))
    planned = world.plan()
    assert len(planned.decisions) == 1
    assert len(live(world)) == count


def test_it_is_explained_how_the_tasks_stand_and_why_none_runs() -> None:
    world = World(node("n1", 2))
    world.submit(array(A, 5, priority=1), array(B, 3))
    world.plan()
    end(world, 0)
    said = explain(world.snapshot(), A, world.now, Spread()).message
    assert said == ("of its 5 tasks 2 run on 1 node, 2 wait, 1 have ended well: its other tasks wait for room")
    waits = explain(world.snapshot(), B, world.now, Spread())
    assert waits.reason is Reason.WAITING_FOR_CAPACITY
    assert A in waits.blockers
    assert waits.changes
