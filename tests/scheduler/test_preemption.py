"""Preemption by tables: who goes, who stays, what is reserved, and who is never touched."""

from dataclasses import replace

import pytest

from services.scheduler.planner import plan
from services.scheduler.queue_values import Queue, Quota, Stop
from services.scheduler.snapshot import Check, CheckState, Kind, Reason, SliceState, State, Topology
from tests.scheduler.world import World, group, node, workload

HOUR = 3600.0


def _run(world: World, *names: str) -> None:
    """Everything placed runs."""
    world.settle()
    for name in names:
        for each in world.slices(name):
            world.report(name, each.index, SliceState.RUNNING)
    world.settle()


def _stopped(world: World, name: str) -> None:
    """The slices that were told to stop have stopped."""
    for generation, assignment in world.assignments[name].items():
        following = world.assignments[name].get(generation + 1)
        for each in assignment.slices if assignment.revoked else ():
            if following is None or each.index not in following.kept:
                world.report(name, each.index, SliceState.STOPPED, generation)


def _victims(world: World) -> list[str]:
    return sorted(
        name
        for name, generations in world.assignments.items()
        if any(each.revoked in ("preempted", "resized") for each in generations.values())
    )


def test_a_higher_priority_takes_the_place_of_a_lower_once_that_has_stopped() -> None:
    world = World(node("a", 4))
    world.submit(workload("low", group(4)))
    _run(world, "low")
    world.now = 1000.0
    world.submit(workload("high", group(4), priority=1))
    world.settle()
    assert world.state("high") == (State.PENDING, Reason.WAITING_FOR_PREEMPTED)
    assert world.workloads["low"].state is State.RUNNING  # it saves what it has done
    assert world.assignments["low"][1].revoked == "preempted"
    assert world.reservations["high"].victims == (("low", 1),)
    world.check()
    _stopped(world, "low")
    world.settle()
    assert world.state("high")[0] is State.ASSIGNED
    assert world.state("low") == (State.PENDING, Reason.WAITING_FOR_CAPACITY)
    assert (world.workloads["low"].restarts, world.workloads["low"].preemptions) == (0, 1)
    assert not world.reservations


@pytest.mark.parametrize(
    ("project", "named"), [("a", "projects/a/workloads/high"), ("b", "a workload of another project")]
)
def test_who_makes_room_is_told_for_whom_in_its_own_project_only(project: str, named: str) -> None:
    low, high = "projects/a/workloads/low", f"projects/{project}/workloads/high"
    world = World(node("a", 4))
    world.submit(workload(low, group(4)))
    _run(world, low)
    world.now = 1000.0
    world.submit(workload(high, group(4), priority=1))
    messages = {each.workload: each.message for each in plan(world.snapshot(), world.now).decisions}
    assert messages[low] == f"it makes room for {named}"


def test_victims_and_reservation_are_one_transaction() -> None:
    world = World(node("a", 2))
    world.submit(workload("x"), workload("y"))
    _run(world, "x", "y")
    world.now = 1000.0
    world.submit(workload("high", group(2), priority=1))
    decisions = plan(world.snapshot(), world.now).decisions
    assert {each.workload: each.together for each in decisions} == {"x": "high", "y": "high", "high": "high"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"is_preemptible": False}, id="never preemptible"),
        pytest.param({"priority": 1}, id="equal priority"),
        pytest.param({"assigned_at": 990.0}, id="before its least runtime"),
    ],
)
def test_nobody_is_stopped_who_must_not_be(changes: dict[str, object]) -> None:
    world = World(node("a", 1))
    world.submit(workload("low"))
    _run(world, "low")
    world.now = 1000.0
    world.workloads["low"] = replace(world.workloads["low"], **changes)  # type: ignore[arg-type]
    world.submit(workload("high", priority=1))
    world.settle()
    assert world.state("high") == (State.PENDING, Reason.WAITING_FOR_CAPACITY)
    assert not _victims(world)


def test_the_planner_looks_again_when_the_least_runtime_is_over() -> None:
    world = World(node("a", 1))
    world.submit(workload("low"))
    _run(world, "low")
    world.now = 10.0
    world.submit(workload("high", priority=1))
    world.settle()
    wake_at = world.plan().wake_at
    assert wake_at == 60.0
    world.now = 60.0
    world.settle()
    assert _victims(world) == ["low"]


def test_a_queue_may_do_without_preemption() -> None:
    world = World(node("a", 1), queues=(Queue(name="queues/q", has_preemption=False),))
    world.submit(workload("low", queue="queues/q"))
    _run(world, "low")
    world.now = 1000.0
    world.submit(workload("high", queue="queues/q", priority=1))
    world.settle()
    assert not _victims(world)


def test_the_one_that_loses_least_work_goes() -> None:
    world = World(node("a", 1), node("b", 1))
    world.submit(workload("saved"), workload("young"))
    _run(world, "saved", "young")
    world.now = 5000.0
    world.workloads["saved"] = replace(world.workloads["saved"], checkpoint_at=4990.0)
    world.workloads["young"] = replace(world.workloads["young"], assigned_at=4000.0)
    world.submit(workload("high", priority=1, expected_duration_s=HOUR))
    world.settle()
    assert _victims(world) == ["saved"]


def test_only_those_that_are_needed_go() -> None:
    world = World(*(node(f"n{at}", 2) for at in range(4)))
    for at in range(8):
        world.submit(workload(f"w{at}"))
    _run(world, *(f"w{at}" for at in range(8)))
    world.now = 1000.0
    world.submit(workload("high", group(1, 2000), priority=1))
    world.settle()
    assert len(_victims(world)) == 2
    assert len({world.slices(name)[0].node for name in _victims(world)}) == 1


def test_surplus_is_taken_back_before_anybody_is_stopped() -> None:
    world = World(node("a", 8))
    world.submit(workload("elastic", group(2, most=6)), workload("small", group(2)))
    world.settle()
    assert len(world.slices("elastic")) == 6
    _run(world, "elastic", "small")
    world.now = 1000.0
    world.submit(workload("high", group(3), priority=1))
    world.settle()
    assert _victims(world) == ["elastic"]
    assert world.assignments["elastic"][1].revoked == "resized"
    _stopped(world, "elastic")
    world.settle()
    world.check()
    assert len(world.slices("elastic")) == 3
    assert len(world.slices("high")) == 3
    assert world.workloads["elastic"].preemptions == world.workloads["elastic"].restarts == 0


def test_surplus_goes_to_equals_that_wait() -> None:
    world = World(node("a", 8))
    world.submit(workload("elastic", group(2, most=8)))
    _run(world, "elastic")
    world.now = 1000.0
    world.submit(workload("next", group(4)))
    world.settle()
    _stopped(world, "elastic")
    world.settle()
    assert (len(world.slices("elastic")), len(world.slices("next"))) == (4, 4)


def test_serving_is_trimmed_to_its_floor_and_no_further_for_equals() -> None:
    world = World(node("a", 4))
    world.submit(workload("serving", group(1, most=4), kind=Kind.SERVING))
    _run(world, "serving")
    world.now = 1000.0
    world.submit(workload("next", group(2)))
    world.settle()
    serving = [each for each in world.slices("serving") if each.state is SliceState.RUNNING]
    assert len(serving) == 2  # no more goes than is needed
    assert world.assignments["serving"][2].kept == frozenset({0, 1})  # which run on without a break
    _stopped(world, "serving")
    world.settle()
    world.check()
    assert world.state("next")[0] is State.ASSIGNED


def test_what_is_freed_is_not_stolen_while_another_victim_still_saves_its_work() -> None:
    world = World(node("a", 1), node("b", 1))
    world.submit(workload("x"), workload("y"))
    _run(world, "x", "y")
    world.now = 1000.0
    world.submit(workload("high", group(2), priority=1))
    world.settle()
    _stopped(world, "x")
    world.submit(workload("thief", submitted=99))
    world.settle()
    assert world.state("thief") == (State.PENDING, Reason.BEHIND_RESERVATION)
    _stopped(world, "y")
    world.settle()
    assert world.state("high")[0] is State.ASSIGNED
    world.check()


def test_a_reservation_does_not_outlive_its_time_or_its_workload() -> None:
    world = World(node("a", 1))
    world.submit(workload("low"))
    _run(world, "low")
    world.now = 1000.0
    world.submit(workload("high", priority=1))
    world.settle()
    before = world.reservations["high"]
    assert plan(world.snapshot(), world.now).wake_at == before.expires_at
    cancelled = replace(world.workloads["high"], state=State.CANCELLING)
    other = World(node("a", 1))
    other.__dict__.update(world.__dict__)
    other.workloads = dict(world.workloads) | {"high": cancelled}
    other.reservations = dict(world.reservations)
    other.settle()
    assert not other.reservations
    world.now = before.expires_at
    world.settle()
    assert not world.reservations  # the victim hangs: nobody else is stopped for that
    _stopped(world, "low")
    world.settle()
    assert world.state("high")[0] is State.ASSIGNED


def test_nothing_is_lost_beyond_the_budget() -> None:
    world = World(node("a", 8))
    world.submit(workload("old", group(8)))
    _run(world, "old")
    world.now = 100 * HOUR  # 800 device-hours are not saved
    world.submit(workload("short", group(1), priority=1, expected_duration_s=HOUR))
    world.settle()
    assert not _victims(world)
    world.workloads["old"] = replace(world.workloads["old"], checkpoint_at=world.now - 60)
    world.settle()
    assert _victims(world) == ["old"]


def _cohort(*queues: tuple[str, int]) -> tuple[Queue, ...]:
    def leaf(name: str, nominal: int) -> Queue:
        quota = Quota(resource="device_milli", nominal=nominal)
        return Queue(name=f"queues/{name}", parent="queues/root", quotas=(quota,))

    return (Queue(name="queues/root"), *(leaf(*each) for each in queues))


def test_a_queue_takes_back_what_is_its_own() -> None:
    world = World(node("a", 4), queues=_cohort(("x", 2000), ("y", 2000)))
    for at in range(4):
        world.submit(workload(f"y{at}", queue="queues/y", priority=9))
    _run(world, *(f"y{at}" for at in range(4)))
    world.now = 1000.0
    world.submit(workload("x0", group(2), queue="queues/x"))
    world.settle()
    assert len(_victims(world)) == 2
    for name in _victims(world):
        _stopped(world, name)
    world.settle()
    assert world.state("x0")[0] is State.ASSIGNED
    world.now = 2000.0
    world.submit(workload("x1", queue="queues/x"))  # beyond its own: it may not take from y
    world.settle()
    assert world.state("x1") == (State.PENDING, Reason.WAITING_FOR_QUOTA)
    assert not any(name.startswith("y") for name in _victims(world))


def test_a_drained_queue_stops_what_runs_and_admits_nothing() -> None:
    world = World(node("a", 1), queues=(Queue(name="queues/q"),))
    world.submit(workload("w", queue="queues/q"))
    _run(world, "w")
    world.queues["queues/q"] = Queue(name="queues/q", stop=Stop.HOLD_AND_DRAIN)
    world.settle()
    assert world.assignments["w"][1].revoked == "drained"
    _stopped(world, "w")
    world.settle()
    assert world.state("w") == (State.PENDING, Reason.ON_HOLD)
    world.queues["queues/q"] = Queue(name="queues/q")
    world.settle()
    assert world.state("w")[0] is State.ASSIGNED
    assert world.workloads["w"].restarts == 0


def test_quota_is_not_exceeded_by_what_comes_with_a_topology() -> None:
    queue = Queue(name="queues/q", quotas=(Quota(resource="device_milli", nominal=3000),))
    world = World(node("a", 8), queues=(queue,))
    world.submit(workload("w", group(1, most=8), queue="queues/q", topology=Topology(level="host")))
    world.settle()
    assert len(world.slices("w")) == 3


def test_quota_that_is_coming_back_is_waited_for() -> None:
    queue = Queue(name="queues/q", quotas=(Quota(resource="device_milli", nominal=2000),))
    world = World(node("a", 8), queues=(queue,))
    world.submit(workload("leaves", queue="queues/q"), workload("stays", queue="queues/q"))
    _run(world, "leaves", "stays")
    world.now = 1000.0
    world.workloads["leaves"] = replace(world.workloads["leaves"], state=State.CANCELLING)
    world.submit(workload("high", queue="queues/q", priority=1))
    world.settle()
    assert not _victims(world)


def test_what_is_coming_free_in_another_pool_is_waited_for() -> None:
    world = World(node("a", 1), node("b", 1, pool="pools/q"), pools=("pools/p", "pools/q"))
    world.submit(workload("leaves", pools=("pools/q",)), workload("stays", pools=("pools/p",)))
    _run(world, "leaves", "stays")
    world.now = 1000.0
    world.workloads["leaves"] = replace(world.workloads["leaves"], state=State.CANCELLING)
    world.submit(workload("high", priority=1))
    world.settle()
    assert not _victims(world)


def test_a_reservation_that_is_over_counts_against_nobody() -> None:
    queue = Queue(name="queues/q", quotas=(Quota(resource="device_milli", nominal=2000),))
    world = World(node("a", 8), queues=(queue,))
    world.submit(workload("slow", queue="queues/q"), workload("other", queue="queues/q"))
    _run(world, "slow", "other")
    world.now = 1000.0
    world.submit(workload("high", queue="queues/q", priority=1))
    world.settle()
    assert len(_victims(world)) == 1
    world.now = 2000.0  # its reservation is over; only now the victim stops
    for name in _victims(world):
        _stopped(world, name)
    world.settle()
    assert world.state("high")[0] is State.ASSIGNED
    assert len(_victims(world)) <= 1


def test_quota_comes_back_from_wherever_it_is_used() -> None:
    queue = Queue(name="queues/q", quotas=(Quota(resource="device_milli", nominal=4000),))
    world = World(node("a", 4), node("b", 4, pool="pools/q"), pools=("pools/p", "pools/q"), queues=(queue,))
    world.submit(workload("elastic", group(1, most=4), queue="queues/q", pools=("pools/p",)))
    _run(world, "elastic")
    world.now = 1000.0
    world.submit(workload("next", group(1, 1000), queue="queues/q", pools=("pools/q",)))
    world.settle()
    assert dict(world.workloads["elastic"].granted) == {"worker": 3}


def test_what_is_stopped_in_this_cycle_ends_once() -> None:
    """The first that waits counts on what ends and on what is being stopped: on the same slices only once."""
    world = World(node("a", 2))
    world.submit(workload("gang", group(3, 500), expected_duration_s=60.0), workload("more", group(1, 500)))
    _run(world, "gang", "more")
    world.report("gang", 0, SliceState.FAILED)  # the other two are told to stop, in the same plan
    world.submit(workload("wide", group(7, 500)), workload("waits", group(4, 500)))
    world.settle()
    assert world.state("wide") == (State.PENDING, Reason.WAITING_FOR_CAPACITY)
    world.check()


def test_what_has_ended_uses_no_quota_any_more() -> None:
    queue = Queue(name="queues/q", quotas=(Quota(resource="device_milli", nominal=2000),))
    world = World(node("a", 8), queues=(queue,))
    world.submit(workload("ends", queue="queues/q"), workload("stays", queue="queues/q"))
    _run(world, "ends", "stays")
    world.now = 1000.0
    world.report("ends", 0, SliceState.SUCCEEDED)
    world.submit(workload("high", queue="queues/q", priority=1))
    world.plan()
    assert world.state("high")[0] is State.ASSIGNED
    assert not _victims(world)


def test_whoever_has_quota_reserved_is_not_held_up_by_one_that_waits_for_that_quota() -> None:
    queue = Queue(name="queues/q", quotas=(Quota(resource="device_milli", nominal=1000),), is_strict=True)
    world = World(node("a", 8), queues=(queue,))
    world.submit(workload("first", queue="queues/q", checks=(Check(name="budget"),)))
    world.settle()
    assert world.state("first") == (State.PENDING, Reason.WAITING_FOR_ADMISSION_CHECK)
    world.submit(workload("urgent", queue="queues/q", priority=1))
    world.settle()
    agreed = (Check(name="budget", state=CheckState.READY),)
    world.workloads["first"] = replace(world.workloads["first"], checks=agreed)
    world.settle()
    assert world.state("first")[0] is State.ASSIGNED


def test_what_can_never_run_keeps_no_quota_from_others() -> None:
    queue = Queue(name="queues/q", quotas=(Quota(resource="device_milli", nominal=2000),))
    world = World(node("a", 1), queues=(queue,))
    world.submit(workload("wide", group(1, 2000), queue="queues/q", checks=(Check(name="budget"),)))
    world.submit(workload("small", queue="queues/q"))
    world.settle()
    assert world.state("wide") == (State.PENDING, Reason.NO_MATCHING_POOL)
    assert world.state("small")[0] is State.ASSIGNED
