"""The smallest change: it admits the workload, a smaller one does not, and one is found wherever there can be one."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from services.scheduler.explain.blockers import in_the_way
from services.scheduler.explain.changes import (
    AddNodes,
    Change,
    ChangeWorkload,
    RemoveWorkload,
    SetFloatingResource,
    SetQuota,
    describe,
)
from services.scheduler.explain.estimate import Spread
from services.scheduler.explain.explanation import explain
from services.scheduler.explain.gaps import RESOURCES
from services.scheduler.explain.queueing import Line, line_of, without_those_behind
from services.scheduler.explain.rehearsal import PLACED, Budget, rehearse
from services.scheduler.explain.smallest_change import smallest_change
from services.scheduler.explain.trial import Trial, largest, smallest
from services.scheduler.explain.what_if import apply
from services.scheduler.planner.quota import project_of
from services.scheduler.queue_values import Queue, Quota, Stop
from services.scheduler.snapshot import Demand, Snapshot, Taint, Toleration, Topology, Workload
from tests.scheduler.situations import LICENCE, NOW, RACK, at_rest, budget, situation
from tests.scheduler.world import group, node, workload

QUICK, MANY = range(40), range(500)


def proposed(snapshot: Snapshot, name: str) -> Change | None:
    changes = explain(snapshot, name, NOW, Spread()).changes
    assert len(changes) <= 1, words(changes)
    return changes[0] if changes else None


def admits(snapshot: Snapshot, name: str, *changes: Change) -> bool:
    for each in changes:
        snapshot = apply(snapshot, each, NOW)
    after = rehearse(snapshot, NOW, budget()).workload(name)
    return after is not None and after.state in PLACED


def words(changes: Iterable[Change]) -> str:
    return "; ".join(describe(each) for each in changes)


def check(seed: int) -> int:
    """How many changes are proposed for this situation; that they admit it, and are as small as can be."""
    snapshot, name = situation(seed)
    changes = explain(snapshot, name, NOW, Spread()).changes
    if not changes:
        possible = [each for each in _anything(snapshot, name) if admits(snapshot, name, each)]
        assert not possible, f"seed {seed}: {describe(possible[0])} would admit {name}, and nothing was proposed"
        return 0
    assert admits(snapshot, name, *changes), f"seed {seed}: {words(changes)} does not admit {name}"
    for at, change in enumerate(changes):
        before, after = changes[:at], changes[at + 1 :]
        less = _less(snapshot, change)
        smaller = [(*before, *after)] if len(changes) > 1 else []
        smaller += [(*before, less, *after)] if less is not None else []
        for each in smaller:
            assert not admits(snapshot, name, *each), f"seed {seed}: {words(changes)}; {words(each)} is enough"
    return len(changes)


def _anything(snapshot: Snapshot, name: str) -> Iterator[Change]:
    """Everything that could be proposed, as far as it goes."""
    mine = snapshot.workloads[name]
    asked = sum(each.max_count for one in snapshot.workloads.values() for each in one.groups)
    for like in snapshot.nodes:
        yield from (AddNodes(like=like, count=count) for count in {1, mine.groups[0].min_count, asked})
    for other in snapshot.workloads:
        if other != name and project_of(other) == project_of(name):
            yield RemoveWorkload(workload=other)
    for queue in snapshot.queues.values():
        yield from (SetQuota(queue=queue.name, quota=replace(each, nominal=10**12)) for each in queue.quotas)
    yield from (SetFloatingResource(name=each, capacity=10**6) for each, _ in mine.floating)
    tiny = tuple(replace(each, min_count=1, demand=_trace_of(each.demand)) for each in mine.groups)
    anywhere = replace(mine, is_held=False, topology=None, pools=(), selector=(), tolerations=(Toleration(),))
    yield ChangeWorkload(workload=replace(mine, is_held=False))
    yield ChangeWorkload(workload=anywhere)
    yield ChangeWorkload(workload=replace(mine, groups=tuple(replace(each, min_count=1) for each in mine.groups)))
    yield ChangeWorkload(workload=replace(anywhere, groups=tiny))


def _trace_of(demand: Demand) -> Demand:
    """A little of everything that it asks for, and of nothing else."""
    return Demand(**{each: min(1, getattr(demand, each)) for each in RESOURCES})


def _less(snapshot: Snapshot, change: Change) -> Change | None:
    """The same change one step smaller, if there is one."""
    match change:
        case AddNodes(like=like, count=count) if count > 1:
            return AddNodes(like=like, count=count - 1)
        case SetQuota(queue=queue, quota=quota):
            return SetQuota(queue=queue, quota=replace(quota, nominal=quota.nominal - 1))
        case SetFloatingResource(name=name, capacity=capacity):
            return SetFloatingResource(name=name, capacity=capacity - 1)
        case ChangeWorkload(workload=wished):
            return _one_slice_more(snapshot.workloads[wished.name], wished)
    return None


def _one_slice_more(before: Workload, wished: Workload) -> Change | None:
    fewer = [at for at, each in enumerate(wished.groups) if each.min_count < before.groups[at].min_count]
    if len(fewer) != 1 or wished.topology is not before.topology:
        return None
    at = fewer[0]
    groups = list(wished.groups)
    groups[at] = replace(groups[at], min_count=groups[at].min_count + 1)
    if replace(groups[at], min_count=before.groups[at].min_count) != before.groups[at]:
        return None  # less of something else too
    return ChangeWorkload(workload=replace(wished, groups=tuple(groups)))


@pytest.mark.exhaustive
def test_applying_it_admits_the_workload_in_random_situations() -> None:
    assert min(check(seed) for seed in QUICK) >= 1, "every situation can be helped"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_applying_it_admits_the_workload_in_500_random_situations() -> None:
    found = [check(seed) for seed in MANY]
    assert min(found) >= 1, f"seed {found.index(0)} is not helped"
    assert max(found) > 1, "none of them needs several changes: that is not tried"


def test_a_node_more() -> None:
    """Three of one device would do, but two of two add less hardware than one of eight."""
    nodes = (node("big", 8), node("small", 2))
    snapshot = at_rest(nodes, workload("projects/a/workloads/full", group(5, 2000), is_preemptible=False))
    wide = workload("projects/a/workloads/wide", group(1, 2000, name="w"), is_preemptible=False)
    snapshot = rehearse(replace(snapshot, workloads={**snapshot.workloads, wide.name: wide}), NOW, budget()).snapshot
    assert proposed(snapshot, wide.name) == AddNodes(like="pools/p/nodes/small", count=1)


def test_others_before_it_take_the_first_nodes() -> None:
    first = [workload(f"projects/b/workloads/first-{at}", group(1, 2000)) for at in range(4)]
    last = workload("projects/a/workloads/last", group(1, 2000))
    snapshot = at_rest((node("n0", 2),), *first, last)
    assert proposed(snapshot, last.name) == AddNodes(like="pools/p/nodes/n0", count=4)


def test_where_no_change_alone_is_enough_several_are_proposed() -> None:
    """There is no licence, and no node has as much as it asks for, nor anything free."""
    full = workload("projects/b/workloads/full", group(1, 4000, cpu_milli=8000), is_preemptible=False)
    wide = workload("projects/a/workloads/wide", group(2, 1000, cpu_milli=9000), floating=((LICENCE, 2),))
    snapshot = at_rest((node("n0", 4),), full, wide, floating={LICENCE: 1})
    changes = explain(snapshot, wide.name, NOW, Spread()).changes
    assert [describe(each) for each in changes] == [
        "ask for 8000 instead of 9000 cpu_milli per slice of worker",
        f"set {LICENCE} to 2",
        "add 2 nodes like pools/p/nodes/n0",
    ]
    assert admits(snapshot, wide.name, *changes)


def test_what_nothing_here_can_change_is_left_without_a_proposal() -> None:
    queue = Queue(name="queues/q", projects=("projects/a",), stop=Stop.HOLD)
    waits = workload("projects/a/workloads/waits")
    assert proposed(at_rest((node("n0", 1),), waits, queues=(queue,)), waits.name) is None


def test_one_that_will_overtake_it_is_reckoned_with() -> None:
    """The second of one project is behind the first of another as soon as its own first has a place."""
    full = workload("projects/c/workloads/full", is_preemptible=False)
    first, mine = workload("projects/a/workloads/first"), workload("projects/a/workloads/mine")
    other = workload("projects/b/workloads/other")
    snapshot = at_rest((node("n0", 1),), full, first, mine, other, queues=(Queue(name="queues/default"),))
    assert line_of(snapshot, mine.name, NOW) == Line(position=2, behind=frozenset({other.name}))
    assert proposed(snapshot, mine.name) == AddNodes(like="pools/p/nodes/n0", count=3)


def test_those_behind_it_that_hold_nothing_make_no_difference() -> None:
    waiting = [workload(f"projects/a/workloads/w{at}", group(1, 2000), priority=-at) for at in range(4)]
    snapshot = at_rest((node("n0", 1),), *waiting)
    line = line_of(snapshot, waiting[1].name, NOW)
    assert line == Line(position=2, behind=frozenset({waiting[2].name, waiting[3].name}))
    reserving = replace(snapshot.workloads[waiting[2].name], quota_reserved_at=0.0)
    snapshot = replace(snapshot, workloads={**snapshot.workloads, reserving.name: reserving})
    assert set(without_those_behind(snapshot, line).workloads) == {each.name for each in waiting[:3]}


def test_as_many_slices_as_there_is_room_for() -> None:
    gang = workload("projects/a/workloads/gang", group(5, most=6))
    snapshot = at_rest((node("n0", 3),), gang)
    change = proposed(snapshot, gang.name)
    assert isinstance(change, ChangeWorkload)
    assert (change.workload.groups[0].min_count, change.workload.groups[0].max_count) == (3, 6)
    assert change.description == "ask for at least 3 instead of 5 slices of worker"


def test_two_groups_that_must_both_give_up_some() -> None:
    gang = workload("projects/a/workloads/gang", group(4, name="one"), group(4, name="two"))
    change = proposed(at_rest((node("n0", 4),), gang), gang.name)
    assert isinstance(change, ChangeWorkload)
    assert [each.min_count for each in change.workload.groups] == [2, 2]


def test_less_per_slice() -> None:
    wide = workload("projects/a/workloads/wide", group(1, 8000))
    change = proposed(at_rest((node("n0", 3),), wide), wide.name)
    assert isinstance(change, ChangeWorkload)
    assert change.workload.groups[0].demand.device_milli == 3000


def test_off_its_hold() -> None:
    held = workload("projects/a/workloads/held", is_held=True)
    change = proposed(at_rest((node("n0", 3),), held), held.name)
    assert change is not None
    assert describe(change) == "take it off its hold"


def test_a_topology_that_is_only_preferred() -> None:
    racks = tuple(replace(node(f"n{at}", 1), labels={RACK: str(at)}) for at in range(2))
    gang = workload("projects/a/workloads/gang", group(2), topology=Topology(level=RACK))
    change = proposed(at_rest(racks, gang), gang.name)
    assert isinstance(change, ChangeWorkload)
    assert change.workload.topology == Topology(level=RACK, is_required=False)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"pools": ("pools/q",)}, "allow pools/p too"),
        ({"selector": ((RACK, "nowhere"),)}, "do not ask for nodes with rack=nowhere"),
        ({"groups": (group(1, device_models=frozenset({"X"})),)}, "allow any device model for worker"),
    ],
)
def test_other_places(wishes: dict[str, object], words: str) -> None:
    picky = replace(workload("projects/a/workloads/picky"), **wishes)  # type: ignore[arg-type]
    change = proposed(at_rest((node("n0", 1, model="A"),), picky, pools=("pools/p", "pools/q")), picky.name)
    assert change is not None
    assert describe(change) == words


def test_a_taint_that_it_could_tolerate() -> None:
    tainted = replace(node("n0", 1), taints=(Taint(key="special", value="x"),))
    shy = workload("projects/a/workloads/shy")
    change = proposed(at_rest((tainted,), shy), shy.name)
    assert isinstance(change, ChangeWorkload)
    assert change.workload.tolerations == (Toleration(key="special"),)


def test_a_quota_raised_by_exactly_what_is_missing() -> None:
    queue = Queue(name="queues/q", projects=("projects/a",), quotas=(Quota(resource="device_milli", nominal=1500),))
    runs, waits = workload("projects/a/workloads/runs"), workload("projects/a/workloads/waits")
    snapshot = at_rest((node("n0", 8),), runs, waits, queues=(queue,))
    quota = Quota(resource="device_milli", nominal=2000)
    assert proposed(snapshot, waits.name) == SetQuota(queue="queues/q", quota=quota)


def test_a_floating_resource_raised_by_exactly_what_is_missing() -> None:
    runs = workload("projects/b/workloads/runs", floating=((LICENCE, 2),))
    waits = workload("projects/a/workloads/waits", floating=((LICENCE, 2),))
    snapshot = at_rest((node("n0", 8),), runs, waits, floating={LICENCE: 3})
    assert proposed(snapshot, waits.name) == SetFloatingResource(name=LICENCE, capacity=4)


def test_without_budget_nothing_is_proposed_rather_than_a_guess() -> None:
    gang = workload("projects/a/workloads/gang", group(5))
    trial = Trial(at_rest((node("n0", 3),), gang), gang.name, NOW, Budget(12))
    assert smallest_change(trial, ()) == ()


def test_a_removal_is_proposed_of_its_own_project_only() -> None:
    """Where nodes cannot be added: the queue is full of its own project's work, and its limit cannot be raised."""
    limit = Quota(resource="device_milli", nominal=1000)
    queue = Queue(name="queues/q", projects=("projects/a", "projects/b"), project_limits=(limit,))
    mine, theirs = workload("projects/a/workloads/mine"), workload("projects/b/workloads/theirs")
    waits = workload("projects/a/workloads/waits")
    snapshot = at_rest((node("n0", 8),), mine, theirs, waits, queues=(queue,))
    change = proposed(snapshot, waits.name)
    assert change == RemoveWorkload(workload=mine.name)
    trial = Trial(snapshot, waits.name, NOW, budget())
    assert theirs.name not in in_the_way(trial, ()).removable


def test_numbers_are_found_by_halving() -> None:
    for least in range(1, 40):
        asked: list[int] = []

        def ok(number: int, least: int = least, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number >= least

        assert smallest(1, 39, ok) == least
        assert len(asked) <= 12
        assert largest(0, 40, lambda number, least=least: number < least) == least - 1  # type: ignore[misc]
    assert smallest(1, 10, lambda number: False) is None
    assert smallest(3, 2, lambda number: True) is None
    assert largest(1, 10, lambda number: False) is None
