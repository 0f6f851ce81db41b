"""Elastic workloads by tables: who gets what is left, when it is worth a stop, and what is taken back first."""

from dataclasses import replace

import pytest

from services.scheduler.planner.throughput import PRIOR_DRAG, Throughput
from services.scheduler.snapshot import Kind, SliceState, Snapshot, State, Workload
from tests.scheduler.world import World, group, node, workload

SETTLED_S, COOLED_S = Snapshot().settled_s, Snapshot().cooled_s
LINEAR = ((1, 10.0), (2, 20.0), (4, 40.0))
FLAT = ((1, 10.0), (2, 9.5), (4, 8.0))


def all_run(world: World) -> None:
    """Everything that is placed is up."""
    world.settle()
    for name in list(world.assignments):
        for each in world.slices(name) if world.assignments[name] else ():
            if each.state is SliceState.ASSIGNED:
                world.report(name, each.index, SliceState.RUNNING)
    world.settle()


def stop(world: World) -> None:
    """What was told to stop has stopped."""
    for name, generations in world.assignments.items():
        for generation, assignment in list(generations.items()):
            following = generations.get(generation + 1)
            for each in assignment.slices if assignment.revoked else ():
                if following is None or each.index not in following.kept:
                    world.report(name, each.index, SliceState.STOPPED, generation)


def size(world: World, name: str) -> int:
    """How many slices it has."""
    return sum(each.state is not SliceState.STOPPED for each in world.slices(name))


def elastic(name: str, least: int = 1, most: int = 8, *, kind: Kind = Kind.TRAINING, **fields: object) -> Workload:
    """A gang of one device each."""
    return workload(name, group(least, most=most), kind=kind, **fields)


def test_without_measurements_the_prior_holds() -> None:
    assert Throughput.fitted(()).drag == Throughput.fitted(((4, 100.0),)).drag == PRIOR_DRAG


@pytest.mark.parametrize("drag", [0.0, 0.05, 0.2, 0.6])
def test_the_curve_is_found_again_in_what_is_measured(drag: float) -> None:
    true = Throughput(drag)
    measured = [(count, 30.0 * true.work(count)) for count in (1, 2, 4, 8)]
    assert Throughput.fitted(measured).drag == pytest.approx(drag, abs=0.08)
    assert Throughput.fitted(measured).drag <= Throughput.fitted([(1, 30.0), (2, 30.0)]).drag


def test_gains_diminish() -> None:
    gains = [Throughput().gain(count) for count in range(1, 20)]
    assert gains == sorted(gains, reverse=True)
    assert all(gain > 0 for gain in gains)


def test_what_is_left_goes_where_it_brings_the_most() -> None:
    world = World(node("a", 8))
    world.submit(elastic("flat", throughput=FLAT), elastic("linear", throughput=LINEAR))
    world.settle()
    assert (size(world, "flat"), size(world, "linear")) == (1, 7)


def test_equals_share_alike() -> None:
    world = World(node("a", 8))
    world.submit(elastic("one"), elastic("other"))
    world.settle()
    assert (size(world, "one"), size(world, "other")) == (4, 4)


def test_a_gang_grows_where_the_gain_is_worth_the_stop_and_not_before_it_has_settled() -> None:
    world = World(node("a", 8))
    world.submit(elastic("first", least=2), workload("second", group(6)))
    all_run(world)
    assert size(world, "first") == 2
    world.report("second", 0, SliceState.FAILED)  # and ends
    world.settle()
    stop(world)
    world.now = SETTLED_S - 1
    world.workloads["first"] = replace(world.workloads["first"], checkpoint_at=world.now)
    world.settle()
    assert [each.revoked for each in world.assignments["first"].values()] == [""]
    assert world.plan().wake_at == SETTLED_S
    world.now = SETTLED_S
    world.settle()
    assert [each.revoked for each in world.assignments["first"].values()] == ["resized"]
    stop(world)
    all_run(world)
    assert size(world, "first") == 8
    world.now += SETTLED_S - 1
    generation = world.workloads["first"].generation
    all_run(world)
    assert world.workloads["first"].generation == generation


@pytest.mark.parametrize(
    "fields",
    [{"throughput": FLAT}, {"checkpoint_at": None}, {"expected_duration_s": 4020.0}],
    ids=["it would not go faster", "too much is not saved", "it ends soon"],
)
def test_a_gang_does_not_stop_for_a_gain_that_is_not_worth_it(fields: dict[str, object]) -> None:
    world = World(node("a", 4))
    world.submit(elastic("runs", least=3, most=4), workload("blocks"))
    all_run(world)
    world.now = 4000.0
    world.report("blocks", 0, SliceState.SUCCEEDED)
    changes = {"checkpoint_at": world.now - 1.0, **fields}
    world.workloads["runs"] = replace(world.workloads["runs"], **changes)  # type: ignore[arg-type]
    all_run(world)
    assert world.workloads["blocks"].state is State.SUCCEEDED
    assert world.workloads["runs"].generation == 1
    assert not world.assignments["runs"][1].revoked


def test_replicas_are_added_beside_those_that_run() -> None:
    world = World(node("a", 4))
    world.submit(elastic("serving", most=4, kind=Kind.SERVING), workload("blocks", group(3)))
    all_run(world)
    assert size(world, "serving") == 1
    for index in range(3):
        world.report("blocks", index, SliceState.SUCCEEDED)
    all_run(world)
    assert size(world, "serving") == 4, "at once: it stops nobody"
    assert world.assignments["serving"][world.workloads["serving"].generation].kept == frozenset({0})
    world.check()


def test_a_gang_gives_up_surplus_for_replicas_and_takes_it_back() -> None:
    world = World(node("a", 8))
    world.submit(workload("serving", group(1, most=1), kind=Kind.SERVING), elastic("trains", least=2, most=8))
    all_run(world)
    assert (size(world, "serving"), size(world, "trains")) == (1, 7)
    world.now = 1000.0
    world.workloads["trains"] = replace(world.workloads["trains"], checkpoint_at=world.now)
    world.workloads["serving"] = replace(world.workloads["serving"], groups=(group(1, most=4),))
    world.settle()
    assert [each.revoked for each in world.assignments["trains"].values()] == ["resized"]
    world.settle()
    assert len(world.assignments["trains"]) == 1, "nothing more while it stops"
    stop(world)
    all_run(world)
    assert (size(world, "serving"), size(world, "trains")) == (4, 4)
    world.check()
    world.workloads["serving"] = replace(world.workloads["serving"], groups=(group(1, most=1),))
    world.settle()
    stop(world)
    all_run(world)
    assert (size(world, "serving"), size(world, "trains")) == (1, 4)
    world.now += SETTLED_S
    world.workloads["trains"] = replace(world.workloads["trains"], checkpoint_at=world.now)
    world.settle()
    stop(world)
    all_run(world)
    assert (size(world, "serving"), size(world, "trains")) == (1, 7)
    world.check()


def test_a_gang_keeps_its_least_whatever_is_asked_for() -> None:
    world = World(node("a", 8))
    world.submit(workload("serving", group(1, most=1), kind=Kind.SERVING), elastic("trains", least=6, most=8))
    all_run(world)
    world.now = 1000.0
    world.workloads["serving"] = replace(world.workloads["serving"], groups=(group(1, most=6),))
    world.settle()
    stop(world)
    all_run(world)
    assert (size(world, "serving"), size(world, "trains")) == (2, 6)
    world.check()


def test_a_gang_of_a_higher_priority_gives_up_nothing_for_replicas() -> None:
    world = World(node("a", 8))
    world.submit(
        workload("serving", group(1, most=1), kind=Kind.SERVING), elastic("trains", least=2, most=8, priority=5)
    )
    all_run(world)
    world.now = 1000.0
    world.workloads["serving"] = replace(world.workloads["serving"], groups=(group(1, most=4),))
    all_run(world)
    assert (size(world, "serving"), size(world, "trains")) == (1, 7)
    assert not any(each.revoked for each in world.assignments["trains"].values())


def test_replicas_that_were_trimmed_come_back_only_after_a_rest() -> None:
    world = World(node("a", 4))
    world.submit(elastic("serving", most=4, kind=Kind.SERVING))
    all_run(world)
    world.now = 1000.0
    world.submit(workload("urgent", group(2), priority=9))
    world.settle()
    stop(world)
    all_run(world)
    world.report("urgent", 0, SliceState.SUCCEEDED)
    world.report("urgent", 1, SliceState.SUCCEEDED)
    all_run(world)
    assert size(world, "serving") == 2
    cut_at = world.workloads["serving"].assigned_at
    assert cut_at is not None
    world.now = cut_at + COOLED_S - 1
    all_run(world)
    assert size(world, "serving") == 2
    world.now = cut_at + COOLED_S
    all_run(world)
    assert size(world, "serving") == 4


def test_nobody_grows_while_somebody_waits_for_room() -> None:
    world = World(node("a", 4), node("b", 4))
    world.submit(elastic("runs", least=2), workload("fills", group(4)))
    all_run(world)
    world.submit(workload("waits", group(8), is_preemptible=True))
    world.now = 10_000.0
    world.workloads["runs"] = replace(world.workloads["runs"], checkpoint_at=world.now)
    for index in range(4):
        world.report("fills", index, SliceState.SUCCEEDED)
    before = size(world, "runs")
    all_run(world)
    assert world.state("waits")[0] is State.PENDING
    assert len(world.slices("runs")) == before


def test_training_shrinks_then_serving_is_trimmed_then_somebody_is_evicted() -> None:
    """Device by device more is asked for, on equal terms but for the priority."""
    taken: dict[int, tuple[int, int, bool]] = {}
    for asked in range(1, 8):
        world = World(node("a", 9))
        world.submit(
            elastic("training", least=1, most=4),
            elastic("serving", least=1, most=4, kind=Kind.SERVING),
            workload("rigid"),
        )
        all_run(world)
        assert (size(world, "training"), size(world, "serving")) == (4, 4)
        world.now = 1000.0
        world.submit(workload("high", group(asked), priority=1, expected_duration_s=36_000.0))
        all_run(world)
        stop(world)
        all_run(world)
        assert world.state("high")[0] is State.RUNNING
        world.check()
        training, serving = world.workloads["training"], world.workloads["serving"]
        taken[asked] = (
            size(world, "training") if training.state is State.RUNNING else 0,
            size(world, "serving") if serving.state is State.RUNNING else 0,
            world.state("rigid")[0] is State.PENDING,
        )
    assert [taken[asked] for asked in (1, 2, 3)] == [(3, 4, False), (2, 4, False), (1, 4, False)]
    assert [taken[asked] for asked in (4, 5, 6)] == [(1, 3, False), (1, 2, False), (1, 1, False)]
    assert sum(taken[7][:2]) + (not taken[7][2]) == 2, "exactly one more of the three goes"


def test_what_a_gang_gave_up_it_gets_back_when_there_is_room_again() -> None:
    world = World(node("a", 4))
    world.submit(elastic("runs", least=1, most=4))
    all_run(world)
    world.now = 1000.0
    world.submit(workload("high", group(2), priority=1))
    all_run(world)
    stop(world)
    all_run(world)
    assert (size(world, "runs"), dict(world.workloads["runs"].granted)) == (2, {"worker": 2})
    for index in range(2):
        world.report("high", index, SliceState.SUCCEEDED)
    world.now = 2000.0
    world.workloads["runs"] = replace(world.workloads["runs"], checkpoint_at=world.now)
    all_run(world)
    stop(world)
    all_run(world)
    assert size(world, "runs") == 4
