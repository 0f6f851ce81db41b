"""Whom a refusal spares another look, and whom it must not: how long a workload runs may matter."""

from dataclasses import replace

import pytest

from services.scheduler.planner.admission import Admission
from services.scheduler.queue_values import Policy, Queue, Quota
from services.scheduler.snapshot import Kind, Reason, SliceState, State, Workload
from tests.scheduler.world import World, group, node, workload


def name(text: str) -> str:
    return f"projects/a/workloads/{text}"


def fifo(**fields: object) -> Queue:
    return Queue(name="queues/default", policy=Policy.FIFO, **fields)  # type: ignore[arg-type]


def running(world: World, *workloads: Workload) -> None:
    world.submit(*workloads)
    world.settle()
    for each in workloads:
        for index in range(len(world.workloads[each.name].slices)):
            world.report(each.name, index, SliceState.RUNNING)
    world.settle()
    assert all(world.workloads[each.name].state is State.RUNNING for each in workloads)


def test_thousands_of_durations_are_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0
    admit = Admission.admit

    def counting(self: Admission, each: Workload) -> tuple[Reason, str] | None:
        nonlocal attempts
        attempts += 1
        return admit(self, each)

    world = World(node("n1", 4), queues=(fifo(),))
    running(world, workload(name("r"), group(4), expected_duration_s=100.0))
    world.submit(*(workload(name(f"w{at:04}"), group(4), expected_duration_s=1000.0 + at) for at in range(2000)))
    monkeypatch.setattr(Admission, "admit", counting)
    world.plan()
    assert attempts <= 8  # two looks (plans) at most of each kind: it is planned twice, to compare
    assert {world.workloads[name(f"w{at:04}")].state for at in range(2000)} == {State.PENDING}


def test_a_short_one_passes_the_head_after_a_long_one_of_its_kind_was_refused() -> None:
    world = World(node("n1", 2), queues=(fifo(),))
    running(world, workload(name("r"), group(1), expected_duration_s=1000.0))
    world.submit(
        workload(name("head"), group(2), expected_duration_s=50.0),
        workload(name("long"), group(1), expected_duration_s=5000.0),
        workload(name("longer"), group(1), expected_duration_s=6000.0),
        workload(name("unknown"), group(1)),
        workload(name("short"), group(1), expected_duration_s=500.0),
        workload(name("shorter"), group(1), expected_duration_s=400.0),
    )
    world.plan()
    placed = {each.rpartition("/")[2] for each, found in world.workloads.items() if found.state is not State.PENDING}
    assert placed == {"r", "short"}


def test_more_may_be_stopped_for_a_long_one_than_for_a_short_one() -> None:
    """One second of work is not worth what is lost; that of another of its kind is."""
    world = World(node("n1", 1), queues=(fifo(),))
    running(world, workload(name("r"), group(1)))
    world.now += 1000.0
    world.submit(
        workload(name("short"), group(1), priority=1, expected_duration_s=1.0),
        workload(name("long"), group(1), priority=1, expected_duration_s=100_000.0),
    )
    world.plan()
    assert name("short") not in world.reservations
    assert name("long") in world.reservations


def test_projects_that_are_limited_each_are_refused_each() -> None:
    limit = Quota(resource="device_milli", nominal=1000)
    world = World(node("n1", 8), queues=(fifo(project_limits=(limit,)),))
    world.submit(
        *(workload(f"projects/{project}/workloads/{at}", group(1)) for project in ("a", "b") for at in range(3))
    )
    world.plan()
    states = [(each.name.split("/")[1], each.state is State.PENDING) for each in world.workloads.values()]
    assert sorted(states) == [("a", False), ("a", True), ("a", True), ("b", False), ("b", True), ("b", True)]


def test_a_service_is_looked_at_even_where_all_of_it_runs() -> None:
    """Only gangs are passed over while they run: a service that wants more slices is not."""
    world = World(node("n1", 4))
    running(world, workload(name("s"), group(1), kind=Kind.SERVING))
    world.workloads[name("s")] = replace(world.workloads[name("s")], groups=(group(2),))
    world.settle()
    assert len(world.workloads[name("s")].slices) == 2
