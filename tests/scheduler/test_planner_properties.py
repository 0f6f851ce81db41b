"""The planner under random histories; and every check of them is shown to catch what it is there for."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from services.scheduler.planner import Decision, Plan, plan
from services.scheduler.planner.memory import Memory
from services.scheduler.planner.verdict import PREEMPTED
from services.scheduler.snapshot import Kind, Reservation, Slice, Snapshot, State
from tests.scheduler.histories import Story, check_all, failure, shortened
from tests.scheduler.invariants import Planner

pytestmark = pytest.mark.exhaustive

PARTS = 8


@pytest.mark.parametrize("part", [pytest.param(part, marks=pytest.mark.exhaustive) for part in range(PARTS)])
def test_nothing_goes_wrong_in_two_thousand_histories(part: int) -> None:
    check_all(range(part * 250, (part + 1) * 250))


def test_nothing_goes_wrong_in_some_histories() -> None:
    check_all(range(50))


def test_nothing_goes_wrong_in_some_histories_with_arrays() -> None:
    check_all(range(2000, 2050), has_arrays=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_goes_wrong_in_two_thousand_histories_with_arrays(part: int) -> None:
    check_all(range(part * 250, (part + 1) * 250), has_arrays=True)


@pytest.mark.parametrize(
    ("seed", "what_it_was"),
    [
        (1813, "tasks were placed in a generation that made room for another in the same cycle"),
        (2600, "in a strict queue one that wanted another turn for its tasks lost it, and another passed"),
    ],
)
def test_a_history_with_arrays_that_once_went_wrong(seed: int, what_it_was: str) -> None:
    check_all([seed], has_arrays=True)


@pytest.mark.parametrize(
    ("seed", "what_it_was"),
    [
        (1001220, "a gang that was made smaller was to go on with a slice whose node was lost"),
        (1015872, "a gang that had grown got its least again, because its new places cost borrowing, and grew again"),
        (1066350, "so did one whose queue had changed"),
        (1066884, "and one beside a workload that was cancelled"),
        (
            1018557,
            "what was freed too late went to others: its workload's turn came after the reservation was dropped",
        ),
        (1000388, "somebody was stopped beside a reservation that was dropped in the same cycle"),
        (1080190, "and so in another"),
        (1091320, "the check gave one room that another, who came before it then, was waiting for"),
        (1051665, "or with one that had ended, whose place the newcomer had got"),
        (1001923, "quota was kept for one that fits in no pool that it has quota in"),
        (1043109, "the check let one pass another that waits; where somebody is stopped for it, it passes nobody"),
        (1052665, "in a strict queue a lost replica was not replaced, and what it held was waited for"),
    ],
)
def test_a_history_that_once_went_wrong(seed: int, what_it_was: str) -> None:
    check_all([seed])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(50))
def test_nothing_goes_wrong_in_a_hundred_thousand_histories(part: int) -> None:
    check_all(range(1_000_000 + part * 2000, 1_000_000 + (part + 1) * 2000))


def test_a_memory_changes_no_plan() -> None:
    """A planner that remembers the cycle before plans as one that begins anew."""
    for seed in range(60):
        assert failure(Story.of(seed, has_arrays=seed % 2 == 1), _remembering()) is None, f"seed {seed}"


def _remembering() -> Planner:
    memory = Memory()

    def planner(snapshot: Snapshot, now: float) -> Plan:
        planned = plan(snapshot, now, memory)
        assert planned == plan(snapshot, now), "another plan than without a memory"
        return planned

    return planner


# Planners that are wrong, each in one way: whoever checks nothing would let them pass.


def _each(change: Callable[[Decision, Snapshot], Decision]) -> Planner:
    def planner(snapshot: Snapshot, now: float) -> Plan:
        planned = plan(snapshot, now)
        return replace(planned, decisions=tuple(change(each, snapshot) for each in planned.decisions))

    return planner


def _with_slices(decision: Decision, slices: tuple[Slice, ...]) -> Decision:
    assert decision.placement is not None
    return replace(decision, slices=slices, placement=replace(decision.placement, slices=slices))


def _all_on_device_0(decision: Decision, snapshot: Snapshot) -> Decision:
    if decision.placement is None:
        return decision
    moved = (replace(each, devices=(0,)) if len(each.devices) == 1 else each for each in decision.placement.slices)
    return _with_slices(decision, tuple(moved))


def _share_on_two_devices(decision: Decision, snapshot: Snapshot) -> Decision:
    if decision.placement is None:
        return decision
    spread = (
        replace(each, devices=(*each.devices, max(each.devices) + 1)) if each.devices else each
        for each in decision.placement.slices
    )
    return _with_slices(decision, tuple(spread))


def _one_slice_less(decision: Decision, snapshot: Snapshot) -> Decision:
    workload = snapshot.workloads[decision.workload]
    if decision.placement is None or workload.kind is not Kind.TRAINING or workload.groups[0].min_count == 1:
        return decision
    return _with_slices(decision, decision.placement.slices[: workload.groups[0].min_count - 1])


def _blind_to_quotas(snapshot: Snapshot, now: float) -> Plan:
    """Plans as if no queue had a quota."""
    return plan(
        replace(snapshot, queues={name: replace(each, quotas=()) for name, each in snapshot.queues.items()}), now
    )


def _blind_to_licences(snapshot: Snapshot, now: float) -> Plan:
    return plan(replace(snapshot, floating=dict.fromkeys(snapshot.floating, 99)), now)


def _blind_to_taints(snapshot: Snapshot, now: float) -> Plan:
    return plan(replace(snapshot, nodes={name: replace(each, taints=()) for name, each in snapshot.nodes.items()}), now)


def _blind_to_topology(snapshot: Snapshot, now: float) -> Plan:
    blind = {name: replace(each, topology=None) for name, each in snapshot.workloads.items()}
    return plan(replace(snapshot, workloads=blind), now)


def _blind_to_age(snapshot: Snapshot, now: float) -> Plan:
    """Stops what has hardly begun, and resizes what has just been resized."""
    old = {
        name: replace(each, assigned_at=each.assigned_at and each.assigned_at - 1e6)
        for name, each in snapshot.workloads.items()
    }
    return plan(replace(snapshot, workloads=old), now)


def _blind_to_wishes(snapshot: Snapshot, now: float) -> Plan:
    """Stops also what must not be stopped."""
    all_ = {name: replace(each, is_preemptible=True) for name, each in snapshot.workloads.items()}
    return plan(replace(snapshot, workloads=all_), now)


def _nothing_reserved(decision: Decision, snapshot: Snapshot) -> Decision:
    return replace(decision, reservation=None)


def _reserved_where_others_are(decision: Decision, snapshot: Snapshot) -> Decision:
    reservation: Reservation | None = decision.reservation
    return replace(decision, reservation=reservation and replace(reservation, victims=reservation.victims[1:]))


def _one_victim_too_many(snapshot: Snapshot, now: float) -> Plan:
    """Also stops another one, of lower priority, for whom it stops somebody."""
    planned = plan(snapshot, now)
    decided = {each.workload for each in planned.decisions}
    for claim in planned.decisions:
        if claim.reservation is None or claim.together != claim.workload:
            continue
        first = next(each for each in planned.decisions if each.together == claim.workload and each is not claim)
        for name, workload in snapshot.workloads.items():
            generations = snapshot.assignments.get(name, ())
            is_lower = workload.priority < snapshot.workloads[claim.workload].priority
            if name in decided or not is_lower or len(generations) != 1 or generations[0].revoked:
                continue
            if workload.state not in (State.ASSIGNED, State.RUNNING) or not workload.is_preemptible or not first.revoke:
                continue
            revocation = replace(first.revoke[0], generation=workload.generation, reason=PREEMPTED)
            victim = Decision(
                workload=name,
                state=workload.state,
                generation=workload.generation,
                restarts=workload.restarts,
                slices=workload.slices,
                revoke=(revocation,),
                together=claim.workload,
                preemptions=workload.preemptions + 1,
                has_quota=True,
            )
            victims = tuple(sorted([*claim.reservation.victims, (name, workload.generation)]))
            more = replace(claim, reservation=replace(claim.reservation, victims=victims))
            rest = [each for each in planned.decisions if each is not claim]
            return replace(planned, decisions=(*rest, more, victim))
    return planned


def _last_first(snapshot: Snapshot, now: float) -> Plan:
    """Serves whoever came last."""
    turned = {name: replace(each, submitted=-each.submitted) for name, each in snapshot.workloads.items()}
    return plan(replace(snapshot, workloads=turned), now)


def _by_the_order_given(snapshot: Snapshot, now: float) -> Plan:
    """Forgets to sort: whoever comes first in the mapping is the oldest."""
    as_given = {name: replace(each, submitted=at) for at, (name, each) in enumerate(snapshot.workloads.items())}
    return plan(replace(snapshot, workloads=as_given), now)


def _forgetful(snapshot: Snapshot, now: float) -> Plan:
    """Never gets round to the workloads of one project."""
    waits = {
        name: replace(each, is_held=each.is_held or (name.startswith("projects/a/") and each.state is State.PENDING))
        for name, each in snapshot.workloads.items()
    }
    return plan(replace(snapshot, workloads=waits), now)


def _priority_to_whoever_waits(snapshot: Snapshot, now: float) -> Plan:
    """Whoever waits is worth more than whoever runs: they stop each other in turn."""
    waits = {
        name: replace(each, priority=9 if each.state is State.PENDING else 0)
        for name, each in snapshot.workloads.items()
    }
    return plan(replace(snapshot, workloads=waits), now)


def _replicas_without_end(snapshot: Snapshot, now: float) -> Plan:
    """Takes every deployment to want more than it does."""
    wide = {
        name: each
        if each.kind is not Kind.SERVING
        else replace(each, groups=tuple(replace(group, max_count=99) for group in each.groups))
        for name, each in snapshot.workloads.items()
    }
    return plan(replace(snapshot, workloads=wide), now)


WRONG: dict[str, tuple[Planner, tuple[str, ...]]] = {
    "over-allocates devices": (_each(_all_on_device_0), ("over-allocated", "no placement")),
    "puts a share on two devices": (_each(_share_on_two_devices), ("devices:",)),
    "tears gangs": (_each(_one_slice_less), ("not whole",)),
    "ignores quotas": (_blind_to_quotas, ("quota:",)),
    "ignores floating resources": (_blind_to_licences, ("floating resources over-allocated",)),
    "ignores taints": (_blind_to_taints, ("misplaced",)),
    "ignores topology": (_blind_to_topology, ("misplaced",)),
    "stops what has hardly begun": (_blind_to_age, ("least runtime", "flapping")),
    "stops what must not be stopped": (_blind_to_wishes, ("may not be preempted",)),
    "evicts without a placement": (_each(_nothing_reserved), ("no placement",)),
    "reserves what is not freed": (_each(_reserved_where_others_are), ("no victim", "no placement")),
    "evicts one too many": (_one_victim_too_many, ("not minimal",)),
    "shrinks gangs for replicas that nobody wants": (_replicas_without_end, ("no replica is missing",)),
    "turns the order round": (_last_first, ("overtaken",)),
    "depends on the order given": (_by_the_order_given, ("not deterministic", "overtaken")),
    "forgets a project": (_forgetful, ("starved",)),
    "lets two stop each other": (_priority_to_whoever_waits, ("A -> B -> A", "no right")),
}


# The one that is not found by the first histories is left to `make test`.
@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.exhaustive] * each.startswith("shrinks gangs")) for each in WRONG]
)
def test_a_planner_is_caught_that(name: str) -> None:
    planner, words = WRONG[name]
    for seed in range(600):
        story = Story.of(seed)
        wrong = failure(story, planner)
        if wrong is not None and any(each in wrong for each in words):
            assert failure(story) is None, "the production planner has no such fault"
            return
    raise AssertionError(f"a planner that {name} gets through 600 histories")


def _forgets_what_it_placed(decision: Decision, snapshot: Snapshot) -> Decision:
    array = snapshot.workloads[decision.workload].array
    if decision.tasks is None or array is None:
        return decision
    return replace(decision, tasks=replace(decision.tasks, array=replace(decision.tasks.array, placed=array.placed)))


def _hurried(snapshot: Snapshot, now: float) -> Plan:
    """Takes what runs on a node that has gone for dead at once."""
    return plan(replace(snapshot, fence_s=0.0), now)


def _all_at_once(snapshot: Snapshot, now: float) -> Plan:
    wide = {
        name: each if each.array is None else replace(each, groups=(replace(each.groups[0], max_count=99),))
        for name, each in snapshot.workloads.items()
    }
    return plan(replace(snapshot, workloads=wide), now)


def _never_tries_again(decision: Decision, snapshot: Snapshot) -> Decision:
    if decision.tasks is None:
        return decision
    return replace(decision, tasks=replace(decision.tasks, array=replace(decision.tasks.array, returned=())))


WRONG_WITH_ARRAYS: dict[str, tuple[Planner, tuple[str, ...]]] = {
    "places a task twice": (_each(_forgets_what_it_placed), ("counts", "in two places", "does not count")),
    "does not wait for the fence": (_hurried, ("may still run",)),
    "runs more at once than may": (_all_at_once, ("run at once",)),
    "forgets tasks that come back": (_each(_never_tries_again), ("counts",)),
}


@pytest.mark.parametrize("name", WRONG_WITH_ARRAYS)
def test_a_planner_of_arrays_is_caught_that(name: str) -> None:
    planner, words = WRONG_WITH_ARRAYS[name]
    for seed in range(600):
        story = Story.of(seed, has_arrays=True)
        wrong = failure(story, planner)
        if wrong is not None and any(each in wrong for each in words):
            assert failure(story) is None, "the production planner has no such fault"
            return
    raise AssertionError(f"a planner that {name} gets through 600 histories")


def test_two_that_stop_each_other_in_turn_are_caught_even_where_each_has_the_right() -> None:
    """The check of circles alone, on a made-up list of evictions."""
    from tests.scheduler.histories import History

    history = History(Story.of(0))
    history.evictions = [("a", "b"), ("c", "b")]
    history.check_circles()
    history.evictions.append(("b", "a"))
    with pytest.raises(AssertionError, match="A -> B -> A"):
        history.check_circles()
    history.evictions = [("a", "b"), ("a", "b")]
    with pytest.raises(AssertionError, match="A -> B -> A"):
        history.check_circles()


def test_a_story_that_goes_wrong_is_shortened() -> None:
    planner = WRONG["ignores quotas"][0]
    story = next(each for each in map(Story.of, range(600)) if failure(each, planner))
    short = shortened(story, planner)
    assert len(short.events) <= 4 < len(story.events) + 1
    assert failure(short, planner)
