"""What a failure costs: budgets by class, backoff, who is to blame, and where the gang goes next."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from chassis.failures import FailureClass as Class
from services.scheduler.explain.estimate import spread_of
from services.scheduler.explain.explanation import explain
from services.scheduler.failure_values import RestartRule, SliceFailure
from services.scheduler.planner import budgets, verdict
from services.scheduler.planner.fleet import Fleet
from services.scheduler.snapshot import Reason, SliceState, State
from tests.scheduler.world import FENCE_S, World, group, node, workload

RULES = (
    RestartRule(failure_class=Class.USER_ERROR, stops_repeated=True),
    RestartRule(failure_class=Class.OOM_HOST, max_restarts=1, avoids_node=True),
    RestartRule(failure_class=Class.DATA, max_restarts=1),
    RestartRule(failure_class=Class.COMM_TIMEOUT, avoids_node=True),
    RestartRule(failure_class=Class.NODE_LOST, avoids_node=True),
    RestartRule(failure_class=Class.HANG, backoff_s=5.0, avoids_node=True),
)


def world_of(*names: str, devices: int = 1, count: int = 1, most: int = 0, **fields: object) -> World:
    """A gang that runs, on nodes of one device each."""
    world = World(*(node(name, devices) for name in names))
    world.submit(workload("w", group(count, most=most), rules=RULES, **fields))
    run(world)
    return world


def run(world: World) -> None:
    world.settle()
    for each in world.slices("w"):
        world.report("w", each.index, SliceState.RUNNING)
    world.settle()


def fail(
    world: World,
    failure_class: str,
    *,
    index: int = 0,
    step: int = 1,
    message: str = "",
    exit_code: int = 1,
    at: float = 1.0,
    suspects: Sequence[int] = (),
    others: Sequence[tuple[int, str, float]] = (),
) -> None:
    """A slice fails, `others` (index, class, time) with it; the rest is stopped, as the agents do when told to."""
    for number, kind, when in [(index, failure_class, at), *others]:
        failure = SliceFailure(failure_class=kind, step=step, noticed_s=when, suspects=tuple(suspects))
        world.report("w", number, SliceState.FAILED, failure=failure, message=message or kind, exit_code=exit_code)
    world.plan()
    for each in world.slices("w"):
        world.report("w", each.index, SliceState.STOPPED)
    world.plan()


def go_on(world: World) -> None:
    """The pause is over, and the gang runs again."""
    world.now = max(world.now, world.workloads["w"].not_before)
    run(world)


def where(world: World) -> list[str]:
    return sorted({each.node.rpartition("/")[2] for each in world.slices("w")})


def test_the_first_restart_is_immediate_and_those_that_get_no_further_wait_longer_and_longer() -> None:
    world = world_of("a", max_restarts=9)
    pauses = []
    for step in (10, 10, 9, 30, 30):
        fail(world, Class.COMM_TIMEOUT, step=step)
        pauses.append(world.workloads["w"].failures.backoff_s)
        assert world.state("w") == (State.PENDING, Reason.BACKING_OFF)
        go_on(world)
    assert pauses == [0.0, 1.0, 2.0, 0.0, 1.0]


def test_a_rule_may_ask_for_another_pause() -> None:
    world = world_of("a", max_restarts=9)
    pauses = []
    for _ in range(3):
        fail(world, Class.HANG)
        pauses.append(world.workloads["w"].failures.backoff_s)
        go_on(world)
    assert pauses == [5.0, 10.0, 20.0]


def test_a_class_with_a_budget_of_its_own_does_not_use_up_the_others() -> None:
    world = world_of("a", "b", max_restarts=1)
    fail(world, Class.OOM_HOST)
    go_on(world)
    fail(world, Class.DATA)
    go_on(world)
    fail(world, Class.COMM_TIMEOUT)
    go_on(world)
    assert world.state("w")[0] is State.RUNNING
    assert dict(world.workloads["w"].failures.restarts) == {Class.OOM_HOST: 1, Class.DATA: 1, Class.COMM_TIMEOUT: 1}
    fail(world, Class.OOM_HOST, message="MemoryError")
    assert world.state("w")[0] is State.FAILED
    message = world.workloads["w"].message
    assert "slice 0 on " in message
    assert "failed (OOM_HOST) with exit code 1: MemoryError; 1 of 1 restart is used for OOM_HOST" in message


def test_classes_without_one_share_the_workloads() -> None:
    world = world_of("a", max_restarts=2)
    for kind in (Class.COMM_TIMEOUT, Class.STORAGE):
        fail(world, kind)
        go_on(world)
    fail(world, Class.HANG)
    assert world.state("w")[0] is State.FAILED
    assert "2 of 2 restarts are used" in world.workloads["w"].message


def test_a_failure_that_repeats_itself_at_the_same_step_is_not_tried_a_third_time() -> None:
    world = world_of("a", max_restarts=9)
    fail(world, Class.USER_ERROR, step=7, message="ValueError: sample 17 at 0x7f01")
    go_on(world)
    fail(world, Class.USER_ERROR, step=7, message="ValueError: sample 17 at 0x8a02")
    assert world.state("w")[0] is State.FAILED
    assert "it failed so at step 7 twice in a row: it is not tried again" in world.workloads["w"].message


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"step": 8, "message": "ValueError: no"}, "it got further"),
        ({"step": 7, "message": "KeyError: no"}, "it failed in another way"),
        ({"step": 7, "message": "ValueError: no", "exit_code": -9}, "it was killed"),
    ],
)
def test_another_failure_is_tried_again(second: dict[str, object], why: str) -> None:
    world = world_of("a", max_restarts=9)
    fail(world, Class.USER_ERROR, step=7, message="ValueError: no")
    go_on(world)
    fail(world, Class.USER_ERROR, **second)  # type: ignore[arg-type]
    assert world.state("w") == (State.PENDING, Reason.BACKING_OFF), why


def test_the_cause_is_blamed_and_not_its_victims() -> None:
    world = world_of("a", "b", "c", count=3, max_restarts=1)
    fail(world, Class.OOM_HOST, index=2, at=5.0, others=[(0, Class.COMM_TIMEOUT, 4.9), (1, Class.COMM_TIMEOUT, 4.8)])
    failures = world.workloads["w"].failures
    assert (failures.slice, failures.failure_class, failures.node) == (2, Class.OOM_HOST, "pools/p/nodes/c")
    assert "(and 2 more)" in world.workloads["w"].message


def test_without_telling_causes_from_victims_a_victim_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_time(sightings: Sequence[object]) -> int:
        return min(range(len(sightings)), key=lambda at: sightings[at].noticed_s)  # type: ignore[attr-defined]

    monkeypatch.setattr(budgets, "first_cause", by_time)
    world = world_of("a", "b", "c", count=3, max_restarts=1)
    fail(world, Class.OOM_HOST, index=2, at=5.0, others=[(0, Class.COMM_TIMEOUT, 4.9), (1, Class.COMM_TIMEOUT, 4.8)])
    assert world.workloads["w"].failures.slice == 1


def test_a_gang_leaves_out_the_node_where_it_failed_while_it_fits_elsewhere() -> None:
    world = world_of("a", "b", max_restarts=9)
    assert where(world) == ["a"]
    fail(world, Class.OOM_HOST)
    go_on(world)
    assert where(world) == ["b"]
    world.check()


def test_without_avoidance_it_goes_back_to_the_same_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fleet, "fill", lambda _fleet, _node: None)
    world = world_of("a", "b", max_restarts=9)
    fail(world, Class.OOM_HOST)
    go_on(world)
    assert where(world) == ["a"]


def test_it_goes_back_there_rather_than_wait() -> None:
    world = world_of("a", "b", count=2, max_restarts=9)
    fail(world, Class.OOM_HOST, index=1)
    go_on(world)
    assert where(world) == ["a", "b"]


def test_another_pool_is_taken_before_a_node_to_be_avoided() -> None:
    world = World(node("a", 1), node("b", 1, pool="pools/q"), pools=("pools/p", "pools/q"))
    world.submit(workload("w", group(1), rules=RULES, pools=("pools/p", "pools/q"), max_restarts=9))
    run(world)
    assert where(world) == ["a"]
    fail(world, Class.HANG)
    go_on(world)
    assert where(world) == ["b"]


def test_nobody_grows_onto_a_node_to_be_avoided() -> None:
    world = world_of("a", "b", "c", count=1, most=3, max_restarts=9)
    assert where(world) == ["a", "b", "c"]
    fail(world, Class.HANG, index=1)
    go_on(world)
    assert where(world) == ["a", "c"]
    world.check()


def test_the_rest_of_the_node_is_there_for_others() -> None:
    world = world_of("a", "b", max_restarts=9)
    fail(world, Class.HANG)
    world.submit(workload("other", group(1)))
    go_on(world)
    assert where(world) == ["b"]
    assert [each.node for each in world.slices("other")] == ["pools/p/nodes/a"]
    world.check()


def test_a_victims_node_is_not_avoided_and_a_suspects_is() -> None:
    world = world_of("a", "b", "c", "d", count=2, max_restarts=9)
    fail(world, Class.COMM_TIMEOUT)
    assert world.workloads["w"].failures.avoided == ()
    go_on(world)
    fail(world, Class.COMM_TIMEOUT, suspects=[0, 1])
    assert world.workloads["w"].failures.avoided == (), "whoever suspects all knows nothing"
    go_on(world)
    fail(world, Class.COMM_TIMEOUT, suspects=[1])
    assert "(it names slice 1 on pools/p/nodes/b)" in world.workloads["w"].message
    assert world.workloads["w"].failures.avoided == ("pools/p/nodes/b",)
    go_on(world)
    assert where(world) == ["a", "c"]


def test_only_the_newest_are_avoided() -> None:
    names = [chr(ord("a") + at) for at in range(budgets.MOST_AVOIDED + 2)]
    world = world_of(*names, max_restarts=99)
    for step in range(1, budgets.MOST_AVOIDED + 3):
        fail(world, Class.HANG, step=step)
        go_on(world)
    assert len(world.workloads["w"].failures.avoided) == budgets.MOST_AVOIDED


def test_it_is_told_to_whoever_asks_why() -> None:
    world = world_of("a", "b", max_restarts=9)
    fail(world, Class.HANG)
    go_on(world)
    found = explain(world.snapshot(), "w", world.now, spread_of(()))
    assert "it leaves out pools/p/nodes/a while it fits elsewhere" in found.message


def test_a_lost_node_costs_nothing_and_is_left_out_when_it_returns() -> None:
    world = world_of("a", "b", "c", count=2, max_restarts=0)
    lost = world.nodes["pools/p/nodes/b"]
    world.lose(lost.name)
    world.report("w", 0, SliceState.FAILED, failure=SliceFailure(failure_class=Class.COMM_TIMEOUT, noticed_s=1.0))
    world.plan()
    world.now += FENCE_S
    world.plan()
    failures = world.workloads["w"].failures
    assert (failures.failure_class, failures.node, failures.slice) == (Class.NODE_LOST, lost.name, 1)
    world.restore(node("b", 1))
    world.settle()
    assert world.state("w")[0] is State.ASSIGNED
    assert (world.workloads["w"].restarts, where(world)) == (0, ["a", "c"])


def test_a_lost_node_counts_when_a_rule_says_so() -> None:
    world = World(node("a", 1), node("b", 1))
    rule = RestartRule(failure_class=Class.NODE_LOST, max_restarts=0)
    world.submit(workload("w", group(1), rules=(rule,), max_restarts=9))
    run(world)
    world.lose("pools/p/nodes/a")
    world.now += FENCE_S
    world.settle()
    assert world.state("w")[0] is State.FAILED


def test_a_preempted_gang_ends_its_generation_as_such_and_pays_nothing() -> None:
    world = world_of("a", max_restarts=0)
    world.now += 100.0  # longer than anybody is protected
    world.submit(workload("urgent", group(1), priority=9, expected_duration_s=60.0))
    world.plan()
    assert world.assignments["w"][1].revoked == verdict.PREEMPTED
    world.report("w", 0, SliceState.STOPPED)
    world.settle()
    failures = world.workloads["w"].failures
    assert (failures.failure_class, failures.generation) == (Class.PREEMPTED, 1)
    assert (world.workloads["w"].restarts, world.state("w")[0]) == (0, State.PENDING)
    world.report("urgent", 0, SliceState.SUCCEEDED)
    world.settle()
    assert world.state("w")[0] is State.ASSIGNED


def test_if_a_preemption_counted_it_would_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "FREE", frozenset())
    world = world_of("a", max_restarts=0)
    world.now += 100.0
    world.submit(workload("urgent", group(1), priority=9, expected_duration_s=60.0))
    world.plan()
    world.report("w", 0, SliceState.STOPPED)
    world.settle()
    assert world.state("w")[0] is State.FAILED


def test_what_was_stopped_to_grow_has_not_failed() -> None:
    world = world_of("a", "b", max_restarts=0)
    before = world.workloads["w"].failures
    generations = world.assignments["w"]
    generations[1] = replace(generations[1], revoked=verdict.RESIZED)
    world.report("w", 0, SliceState.STOPPED)
    world.settle()
    assert world.workloads["w"].failures == before


def test_an_agent_that_cannot_tell_is_believed_that_it_failed() -> None:
    world = world_of("a", max_restarts=1)
    world.report("w", 0, SliceState.FAILED, message="cannot start")
    world.settle()
    assert world.workloads["w"].failures.failure_class == Class.USER_ERROR
