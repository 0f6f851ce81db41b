"""In what order workloads are looked at: policies, aging, fair shares between projects and between queues."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.planner.lines import level, line_of
from services.scheduler.planner.order import Order, ordered
from services.scheduler.planner.quota import Quotas, project_of
from services.scheduler.planner.use import least_use
from services.scheduler.queue_values import Policy, Queue, Quota
from services.scheduler.snapshot import Snapshot, Workload
from tests.scheduler.world import group, node, workload

GPU = "device_milli"


def queue(name: str, *, parent: str = "", nominal: int | None = None, **fields: Any) -> Queue:
    quotas = () if nominal is None else (Quota(resource=GPU, nominal=nominal * 1000),)
    return Queue(name=f"queues/{name}", parent=parent and f"queues/{parent}", quotas=quotas, **fields)


def task(name: str, *, project: str = "acme", devices: int = 1, **fields: Any) -> Workload:
    return workload(f"projects/{project}/workloads/{name}", group(devices), **fields)


def fleet(*queues: Queue, devices: int = 64, **fields: Any) -> Snapshot:
    nodes = {f"pools/p/nodes/n{at}": node(f"n{at}", cpu_milli=1 << 30) for at in range(devices // 8)}
    return Snapshot(queues={each.name: each for each in queues}, nodes=nodes, **fields)


def admit(snapshot: Snapshot, waiting: Iterable[Workload], count: int | None = None, now: float = 0.0) -> list[str]:
    """The short names in the order in which they are admitted, when everything is."""
    quotas = Quotas.of(snapshot)
    return [_short(each) for each in islice(_admitted(snapshot, waiting, quotas, now), count)]


def _admitted(snapshot: Snapshot, waiting: Iterable[Workload], quotas: Quotas, now: float) -> Iterator[Workload]:
    for each in ordered(snapshot, now, waiting, quotas):
        quotas.charge(each.queue or quotas.queue_of(each.name), project_of(each.name), least_use(each))
        yield each


def _short(each: Workload) -> str:
    return each.name.rpartition("/")[2]


def test_without_queues_it_is_priority_then_first_in_first_out() -> None:
    waiting = [
        task("late", submitted=3),
        task("b", submitted=2),
        task("a", submitted=2),
        task("urgent", submitted=9, priority=1),
        task("old", submitted=1, priority=-1, waiting_since=-1e9),
    ]
    assert admit(Snapshot(), waiting) == ["urgent", "a", "b", "late", "old"]


DURATIONS = {"t1": 10, "t2": 20, "t3": 15, "t4": 30, "t5": 25}


def _five() -> list[Workload]:
    return [
        task(name, submitted=at, expected_duration_s=float(seconds))
        for at, (name, seconds) in enumerate(DURATIONS.items())
    ]


def test_the_shortest_job_goes_first() -> None:
    line = queue("default", policy=Policy.SHORTEST_JOB_FIRST)
    assert [DURATIONS[name] for name in admit(fleet(line), _five())] == [10, 15, 20, 25, 30]


def test_on_one_node_the_mean_wait_is_30_by_shortest_job_first_and_32_by_fifo() -> None:
    """The example of docs/scheduling.md."""
    means = {}
    for policy in (Policy.SHORTEST_JOB_FIRST, Policy.FIFO):
        order = admit(fleet(queue("default", policy=policy)), _five())
        waits = accumulate([0, *(DURATIONS[name] for name in order[:-1])])
        means[policy] = sum(waits) / len(order)
    assert means == {Policy.SHORTEST_JOB_FIRST: 30.0, Policy.FIFO: 32.0}


def test_an_unknown_duration_counts_as_the_median_and_comes_after_its_equals() -> None:
    line = queue("default", policy=Policy.SHORTEST_JOB_FIRST)
    assert admit(fleet(line), [task("unknown"), *_five()]) == ["t1", "t3", "t2", "unknown", "t5", "t4"]


def test_waiting_is_worth_priority() -> None:
    line = queue("default", policy=Policy.FIFO, aging_s=100.0)
    waiting = [
        task("new", priority=2, submitted=2, waiting_since=1000.0),
        task("old", submitted=1, waiting_since=750.0),
    ]
    assert admit(fleet(line), waiting, now=1000.0) == ["old", "new"], "two steps for 250 s; then the older one"
    assert admit(fleet(line), waiting, now=900.0) == ["new", "old"], "one step is not enough"


def test_weighted_dynamic_prefers_the_long_waiting_the_small_and_the_short() -> None:
    line = queue("default", policy=Policy.WEIGHTED_DYNAMIC, aging_s=1e9)
    waiting = [
        task("large", devices=8, submitted=1, expected_duration_s=10.0, waiting_since=90.0),
        task("small", devices=1, submitted=2, expected_duration_s=10.0, waiting_since=90.0),
        task("short", devices=8, submitted=3, expected_duration_s=1.0, waiting_since=90.0),
        task("patient", devices=8, submitted=4, expected_duration_s=10.0, waiting_since=0.0),
    ]
    assert admit(fleet(line), waiting, now=100.0) == ["patient", "short", "small", "large"]


def test_a_burst_does_not_keep_another_project_waiting() -> None:
    burst = [task(f"burst{at:03}", project="big", submitted=at) for at in range(100)]
    late = [task(f"late{at}", project="small", submitted=1000 + at) for at in range(3)]
    order = admit(fleet(queue("default")), [*burst, *late], 8)
    assert order == ["burst000", "late0", "burst001", "late1", "burst002", "late2", "burst003", "burst004"]


def test_first_in_first_out_lets_the_burst_through() -> None:
    burst = [task(f"burst{at:03}", project="big", submitted=at) for at in range(100)]
    late = [task(f"late{at}", project="small", submitted=1000 + at) for at in range(3)]
    assert "late0" not in admit(fleet(queue("default", policy=Policy.FIFO)), [*burst, *late], 8)


def test_what_was_used_before_counts() -> None:
    waiting = [task(f"{name}{at}", project=name, submitted=at) for name in "ab" for at in range(9)]
    half_life_s = 100.0
    line = queue("default", half_life_s=half_life_s)
    used = 4 / 64 * half_life_s / 0.6931471805599453  # as if it had held 4 of the 64 devices for ever
    order = admit(fleet(line, usage={"projects/a": used}), waiting, 10)
    assert order == ["b0", "b1", "b2", "b3", "a0", "b4", "a1", "b5", "a2", "b6"]


def test_the_queue_that_stays_within_its_own_goes_first() -> None:
    snapshot = fleet(queue("top"), queue("a", parent="top", nominal=2), queue("b", parent="top", nominal=4))
    waiting = [task(f"{name}{at}", queue=f"queues/{name}", submitted=at) for name in "ab" for at in range(6)]
    order = admit(snapshot, waiting)
    assert sorted(order[:6]) == ["a0", "a1", "b0", "b1", "b2", "b3"], "their own"
    assert order[6:] == ["a2", "b4", "a3", "b5", "a4", "a5"], "then as little beyond it as can be"


def test_queues_are_filled_by_their_weights() -> None:
    snapshot = fleet(queue("a"), queue("b", weight=3.0))
    waiting = [task(f"{name}{at}", queue=f"queues/{name}", submitted=at) for name in "ab" for at in range(40)]
    assert Counter(name[0] for name in admit(snapshot, waiting, 40)) == {"a": 10, "b": 30}


def test_weights_hold_on_every_level_of_the_tree() -> None:
    snapshot = fleet(
        queue("left", weight=3.0), queue("right"), queue("a", parent="left"), queue("b", parent="left", weight=2.0)
    )
    waiting = [
        task(f"{name[0]}{at}", queue=f"queues/{name}", submitted=at) for name in ("a", "b", "right") for at in range(40)
    ]
    assert Counter(name[0] for name in admit(snapshot, waiting, 40)) == {"a": 10, "b": 20, "r": 10}


def test_a_large_workload_counts_before_it_is_admitted() -> None:
    snapshot = fleet(queue("a"), queue("b"))
    waiting = [task("huge", devices=32, queue="queues/a"), *(task(f"b{at}", queue="queues/b") for at in range(3))]
    assert admit(snapshot, waiting) == ["b0", "b1", "b2", "huge"]


def test_nothing_passes_the_head_of_a_strict_queue() -> None:
    snapshot = fleet(queue("strict", is_strict=True), queue("loose"))
    waiting = [task(f"{name[0]}{at}", queue=f"queues/{name}") for name in ("strict", "loose") for at in range(3)]
    order = ordered(snapshot, 0.0, waiting, Quotas.of(snapshot))
    seen = []
    for each in order:
        seen.append(_short(each))
        order.refused(each)
    assert sorted(seen) == ["l0", "l1", "l2", "s0"]
    assert sorted(_short(each) for each in order.blocked()) == ["s1", "s2"]


def test_what_is_given_back_while_it_goes_on_counts() -> None:
    snapshot = fleet(queue("top", weight=1.0), queue("a", parent="top"), queue("gone", parent="top"), queue("b"))
    quotas = Quotas.of(snapshot)
    quotas.charge("queues/gone", "projects/x", {("pools/p", GPU): 30_000})
    waiting = [task(f"{name}{at}", queue=f"queues/{name}") for name in "ab" for at in range(3)]
    order = ordered(snapshot, 0.0, waiting, quotas)
    assert _short(next(order)) == "b0"
    quotas.charge("queues/gone", "projects/x", {("pools/p", GPU): 30_000}, -1)
    quotas.charge("queues/b", "projects/acme", {("pools/p", GPU): 1000})
    assert _short(next(order)) == "a0", "although nothing waits in the queue that gave it back"


# Against a reference that looks at everything anew at every step.


def _reference(snapshot: Snapshot, now: float, waiting: list[Workload], quotas: Quotas) -> Workload:
    def head(name: str) -> Workload | None:
        mine = [each for each in waiting if (each.queue or quotas.queue_of(each.name)) == name]
        return line_of(snapshot.queues.get(name), mine, now, quotas, snapshot.usage).head()

    def rank(each: Workload, name: str) -> Any:
        at, path = each.queue, []
        while at:
            path.append(at)
            at = snapshot.queues[at].parent
        exceeds, share = quotas.path(each.queue, least_use(each))[path.index(name)]
        step = level(each, snapshot.queues[each.queue], now)
        return exceeds, share, -step, each.submitted, each.name

    def best(name: str) -> Workload | None:
        found = []
        if name and (own := head(name)) is not None:
            found.append((rank(own, name), own))
        below = (each.name for each in snapshot.queues.values() if each.parent == name)
        found += [(rank(candidate, each), candidate) for each in below if (candidate := best(each)) is not None]
        return min(found, key=lambda each: each[0])[1] if found else None

    chosen = best("")
    assert chosen is not None
    return chosen


@st.composite
def _situation(draw: st.DrawFn) -> tuple[Snapshot, list[Workload], list[bool]]:
    queues: dict[str, Queue] = {}
    for at in range(draw(st.integers(1, 5))):
        name = f"queues/q{at}"
        queues[name] = queue(
            f"q{at}",
            parent=draw(st.sampled_from(["", *(each.removeprefix("queues/") for each in queues)])),
            nominal=draw(st.none() | st.integers(0, 6)),
            weight=draw(st.sampled_from([1.0, 2.0, 0.5])),
            policy=draw(st.sampled_from(list(Policy))),
            aging_s=10.0,
        )
    shortest = draw(st.integers(0, 1))  # 0: that of some is not known
    waiting = [
        task(
            f"w{at}",
            project=draw(st.sampled_from("ab")),
            queue=draw(st.sampled_from(sorted(queues))),
            devices=draw(st.integers(1, 4)),
            submitted=draw(st.integers(0, 3)),
            priority=draw(st.integers(0, 1)),
            waiting_since=float(draw(st.integers(0, 30))),
            expected_duration_s=float(draw(st.integers(shortest, 3))),
        )
        for at in range(draw(st.integers(0, 12)))
    ]
    usage = {"projects/a": draw(st.sampled_from([0.0, 50_000.0]))}
    return fleet(*queues.values(), usage=usage), waiting, [draw(st.booleans()) for _ in waiting]


@settings(max_examples=200, deadline=None)
@given(situation=_situation(), seed=st.integers(0, 5))
def test_laziness_changes_nothing(situation: tuple[Snapshot, list[Workload], list[bool]], seed: int) -> None:
    snapshot, waiting, admits = situation
    shuffled = list(waiting)
    random.Random(seed).shuffle(shuffled)
    quotas, again = Quotas.of(snapshot), Quotas.of(snapshot)
    # WEIGHTED_DYNAMIC compares with what waits as the cycle begins; the reference would see less and less of it.
    is_static = all(each.policy is not Policy.WEIGHTED_DYNAMIC for each in snapshot.queues.values())
    # The median that stands for unknown durations is that of those that wait as the cycle begins.
    is_static &= len({each.expected_duration_s > 0 for each in waiting}) <= 1
    order, left, seen = ordered(snapshot, 30.0, shuffled, quotas), list(waiting), []
    repeat = ordered(snapshot, 30.0, waiting, again)
    for each, is_admitted in zip(order, admits, strict=True):
        assert each is next(repeat), "the order in which they are given changes nothing"
        if is_static:
            assert each is _reference(snapshot, 30.0, left, quotas)
        left.remove(each)
        seen.append(each.name)
        if is_admitted:
            for one in (quotas, again):
                mark = one.mark()
                one.charge(each.queue, project_of(each.name), least_use(each))
                one.charge(each.queue, project_of(each.name), least_use(each))
                one.undo(mark)  # a trial, taken back
                one.charge(each.queue, project_of(each.name), least_use(each))
    assert sorted(seen) == sorted(each.name for each in waiting), "each once"


def test_within_a_project_the_shortest_is_first_and_between_projects_durations_do_not_matter() -> None:
    snapshot = fleet(queue("q"), usage={"projects/b": 50_000.0})
    names = {"a": {"long": 900.0, "unknown": 0.0, "short": 10.0, "middle": 500.0}, "b": {"tiny": 1.0}}
    waiting = [
        task(name, project=project, queue="queues/q", expected_duration_s=duration_s, submitted=at)
        for project, durations in names.items()
        for at, (name, duration_s) in enumerate(durations.items())
    ]
    order = [each.name.rpartition("/")[2] for each in ordered(snapshot, 0.0, waiting, Quotas.of(snapshot))]
    # The unknown one counts as the median of 1, 10, 500 and 900, and b has had more: its tiny one comes last.
    assert order == ["short", "unknown", "middle", "long", "tiny"]


def test_a_step_does_not_cost_more_the_more_are_waiting() -> None:
    """Counted in looks at shares, not in time."""
    looks = {}
    for count in (100, 2000):
        snapshot = fleet(queue("top"), *(queue(f"q{at}", parent="top") for at in range(10)))
        waiting = [
            task(f"w{at}", project=f"p{at % 10}", queue=f"queues/q{at % 10}", submitted=at) for at in range(count)
        ]
        quotas = _Counting(snapshot)
        order = ordered(snapshot, 0.0, waiting, quotas)
        _steps(order, quotas, 1)
        quotas.looks = 0
        _steps(order, quotas, 50)
        looks[count] = quotas.looks
    assert looks[2000] == looks[100]
    assert looks[2000] < 50 * 5


class _Counting(Quotas):
    """Counts how often a share is worked out."""

    looks = 0

    def path(self, queue: str, extra: Any) -> list[tuple[bool, float]]:
        self.looks += 1
        return super().path(queue, extra)


def _steps(order: Order, quotas: Quotas, count: int) -> None:
    for each in islice(order, count):
        quotas.charge(each.queue, project_of(each.name), least_use(each))


@pytest.mark.parametrize("policy", list(Policy))
def test_every_policy_yields_each_once(policy: Policy) -> None:
    waiting = [task(f"w{at}", project="ab"[at % 2], submitted=at % 7, priority=at % 3) for at in range(50)]
    assert sorted(admit(fleet(queue("default", policy=policy)), waiting)) == sorted(_short(each) for each in waiting)
