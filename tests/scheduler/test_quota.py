"""The quota tree: who fits, who borrows, what is missing; against a reference that works it out anew each time."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.planner.quota import Cell, Fit, Quotas, project_of, queue_of, use_of
from services.scheduler.queue_values import Queue, Quota, Stop
from services.scheduler.snapshot import (
    Assignment,
    Demand,
    Ran,
    Reservation,
    Slice,
    SliceState,
    Snapshot,
    State,
    Workload,
)
from tests.scheduler.world import group, node, workload

GPU = "device_milli"
P = "pools/p"


def quota(nominal: int, borrow: int | None = None, lend: int | None = None, pool: str = "", name: str = GPU) -> Quota:
    return Quota(resource=name, nominal=nominal, pool=pool, borrowing_limit=borrow, lending_limit=lend)


def queue(name: str, *quotas: Quota, parent: str = "", **fields: Any) -> Queue:
    return Queue(name=f"queues/{name}", parent=parent and f"queues/{parent}", quotas=quotas, **fields)


def quotas_of(*queues: Queue, **fields: Any) -> Quotas:
    return Quotas.of(Snapshot(queues={each.name: each for each in queues}, **fields))


def ask(quotas: Quotas, name: str, amount: int, project: str = "projects/acme", pool: str = P) -> Fit:
    return quotas.fit(f"queues/{name}", project, {(pool, GPU): amount}).kind


def test_without_queues_there_are_no_limits() -> None:
    quotas = Quotas.of(Snapshot())
    assert quotas.fit("queues/named", "projects/acme", {(P, GPU): 1 << 60}).kind is Fit.FIT
    assert queue_of(workload("projects/acme/workloads/w", queue="queues/named"), Snapshot()) == ""


def test_a_queue_that_does_not_exist_admits_nothing() -> None:
    answer = quotas_of(queue("a")).fit("queues/b", "projects/acme", {(P, GPU): 1})
    assert (answer.kind, answer.gaps[0].queue) == (Fit.NEVER, "queues/b")


def test_a_workload_goes_to_the_queue_it_names_then_that_of_its_project_then_the_default() -> None:
    queues = {each.name: each for each in (queue("a", projects=("projects/acme",)), queue("default"))}
    snapshot = Snapshot(queues=queues)
    assert queue_of(workload("projects/acme/workloads/w", queue="queues/default"), snapshot) == "queues/default"
    assert queue_of(workload("projects/acme/workloads/w"), snapshot) == "queues/a"
    assert queue_of(workload("projects/other/workloads/w"), snapshot) == "queues/default"
    assert queue_of(workload("projects/other/workloads/w"), Snapshot(queues={"queues/a": queues["queues/a"]})) == ""


def test_its_own_first_then_what_siblings_leave_idle_then_never() -> None:
    quotas = quotas_of(queue("top"), queue("a", quota(4), parent="top"), queue("b", quota(4), parent="top"))
    assert [ask(quotas, "a", amount) for amount in (4, 5, 8, 9)] == [Fit.FIT, Fit.BORROW, Fit.BORROW, Fit.NEVER]
    quotas.charge("queues/b", "projects/b", {(P, GPU): 3})
    assert [ask(quotas, "a", amount) for amount in (4, 5, 6, 8)] == [Fit.FIT, Fit.BORROW, Fit.WAIT, Fit.WAIT]
    gap = quotas.fit("queues/a", "projects/a", {(P, GPU): 7}).gaps
    assert [(each.queue, each.needed, each.available, each.missing) for each in gap] == [("queues/top", 7, 5, 2)]


def test_what_was_lent_is_missed_by_its_owner_until_it_is_given_back() -> None:
    quotas = quotas_of(queue("top"), queue("a", quota(4), parent="top"), queue("b", quota(4), parent="top"))
    quotas.charge("queues/b", "projects/b", {(P, GPU): 8})
    assert quotas.is_borrowing("queues/b")
    answer = quotas.fit("queues/a", "projects/a", {(P, GPU): 4})
    assert (answer.kind, answer.is_borrowing) == (Fit.WAIT, False)
    quotas.charge("queues/b", "projects/b", {(P, GPU): 4}, -1)
    assert ask(quotas, "a", 4) is Fit.FIT
    assert not quotas.is_borrowing("queues/b")


def test_the_borrowing_limit_is_the_most_beyond_its_own() -> None:
    quotas = quotas_of(queue("top"), queue("a", quota(4, borrow=2), parent="top"), queue("b", quota(8), parent="top"))
    assert [ask(quotas, "a", amount) for amount in (6, 7)] == [Fit.BORROW, Fit.NEVER]
    gaps = quotas.fit("queues/a", "projects/a", {(P, GPU): 7}).gaps
    assert [(each.queue, each.missing) for each in gaps] == [("queues/a", 1)]


def test_the_lending_limit_keeps_the_rest_for_the_owner() -> None:
    quotas = quotas_of(queue("top"), queue("a", quota(4), parent="top"), queue("b", quota(8, lend=3), parent="top"))
    assert [ask(quotas, "a", amount) for amount in (7, 8)] == [Fit.BORROW, Fit.NEVER]
    quotas.charge("queues/a", "projects/a", {(P, GPU): 7})
    assert [ask(quotas, "b", amount) for amount in (5, 6)] == [Fit.FIT, Fit.WAIT]


def test_a_parent_has_more_to_share_and_bounds_the_queues_below_that_have_no_quota() -> None:
    quotas = quotas_of(queue("top", quota(10)), queue("a", quota(4), parent="top"), queue("b", parent="top"))
    assert [ask(quotas, "a", amount) for amount in (4, 14, 15)] == [Fit.FIT, Fit.BORROW, Fit.NEVER]
    assert [ask(quotas, "b", amount) for amount in (14, 15)] == [Fit.FIT, Fit.NEVER]
    quotas.charge("queues/b", "projects/b", {(P, GPU): 12})
    assert [ask(quotas, "a", amount) for amount in (2, 3)] == [Fit.FIT, Fit.WAIT]


def test_limits_of_trees_within_trees_are_inherited() -> None:
    quotas = quotas_of(
        queue("top", quota(0)),
        queue("left", quota(0, borrow=2), parent="top"),
        queue("right", quota(10), parent="top"),
        queue("a", quota(3), parent="left"),
        queue("b", quota(3), parent="left"),
    )
    assert [ask(quotas, "a", amount) for amount in (3, 8, 9)] == [Fit.FIT, Fit.BORROW, Fit.NEVER]
    quotas.charge("queues/right", "projects/r", {(P, GPU): 9})
    assert [ask(quotas, "a", amount) for amount in (7, 8)] == [Fit.BORROW, Fit.WAIT]


def test_a_resource_without_a_quota_is_not_limited() -> None:
    quotas = quotas_of(queue("top"), queue("a", quota(4), parent="top"), queue("b", parent="top"))
    assert quotas.fit("queues/a", "projects/a", {(P, "cpu_milli"): 1 << 50}).kind is Fit.FIT
    assert ask(quotas, "b", 1 << 50) is Fit.FIT
    quotas.charge("queues/b", "projects/b", {(P, GPU): 1 << 50})
    assert ask(quotas, "a", 4) is Fit.FIT, "what no quota bounds takes no quota of others"


def test_each_flavour_is_counted_for_itself_and_all_of_them_together() -> None:
    quotas = quotas_of(queue("a", quota(4, pool="pools/fast"), quota(6)))
    assert [ask(quotas, "a", amount, pool="pools/fast") for amount in (4, 5)] == [Fit.FIT, Fit.NEVER]
    assert [ask(quotas, "a", amount, pool="pools/slow") for amount in (6, 7)] == [Fit.FIT, Fit.NEVER]
    quotas.charge("queues/a", "projects/a", {("pools/slow", GPU): 4})
    gaps = quotas.fit("queues/a", "projects/a", {("pools/fast", GPU): 3}).gaps
    assert [(each.pool, each.available) for each in gaps] == [("", 2)]


def test_a_project_limit_is_hard_for_each_project_alone() -> None:
    quotas = quotas_of(queue("top", project_limits=(quota(3),)), queue("a", quota(8), parent="top"))
    quotas.charge("queues/a", "projects/one", {(P, GPU): 2})
    assert [ask(quotas, "a", amount, "projects/one") for amount in (1, 2, 4)] == [Fit.FIT, Fit.WAIT, Fit.NEVER]
    assert ask(quotas, "a", 3, "projects/two") is Fit.FIT
    gap = quotas.fit("queues/a", "projects/one", {(P, GPU): 2}).gaps[0]
    assert (gap.queue, gap.project, gap.missing) == ("queues/top", "projects/one", 1)


def test_the_strictest_stop_on_the_way_up_counts() -> None:
    quotas = quotas_of(queue("top", stop=Stop.HOLD_AND_DRAIN), queue("a", parent="top", stop=Stop.HOLD), queue("b"))
    assert (quotas.stop_of("queues/a"), quotas.stop_of("queues/b")) == (Stop.HOLD_AND_DRAIN, Stop.OPEN)


def test_a_circle_in_what_is_stored_does_not_hang() -> None:
    quotas = quotas_of(queue("a", quota(4), parent="b"), queue("b", quota(4), parent="a"))
    assert ask(quotas, "b", 8) is Fit.BORROW


def _running(name: str, count: int, *, final: int = 0, **fields: Any) -> tuple[Workload, Assignment]:
    each = workload(name, group(count + final), state=State.RUNNING, generation=1, **fields)
    states = [SliceState.SUCCEEDED] * final + [SliceState.RUNNING] * count
    slices = tuple(
        Slice(index=at, group="worker", node=f"{P}/nodes/n", devices=(at,), state=state)
        for at, state in enumerate(states)
    )
    ran = {"worker": Ran(demand=Demand(device_milli=1000), program=b"1")}
    return each, Assignment(workload=name, generation=1, pool=P, slices=slices, sessions={}, groups=ran)


def test_what_has_ended_gives_its_quota_back_and_what_is_being_stopped_does_not() -> None:
    one, runs = _running("projects/a/workloads/one", 2, final=1, queue="queues/a")
    two, stops = _running("projects/a/workloads/two", 3, queue="queues/a")
    snapshot = Snapshot(
        queues={"queues/a": queue("a", quota(8000))},
        workloads={one.name: one, two.name: two},
        assignments={one.name: (runs,), two.name: (replace(stops, revoked="preempted"),)},
    )
    assert [(used, borrowed) for _, used, borrowed in Quotas.of(snapshot).used("queues/a")] == [(5000, 0)]


def test_slices_that_go_on_under_a_new_generation_count_once() -> None:
    one, old = _running("projects/a/workloads/one", 2, queue="queues/a")
    new = replace(old, generation=2, kept=frozenset({0}))
    snapshot = Snapshot(
        queues={"queues/a": queue("a", quota(8000))},
        workloads={one.name: one},
        assignments={one.name: (replace(old, revoked="replaced"), new)},
    )
    assert Quotas.of(snapshot).used("queues/a")[0][1] == 3000, "slice 1 of the old one still holds its place"


def test_kueue_13662_freed_quota_is_kept_for_the_one_it_was_freed_for() -> None:
    victim, runs = _running("projects/a/workloads/victim", 4, queue="queues/a")
    waits = workload("projects/a/workloads/waits", group(4), queue="queues/a", priority=9)
    held = Reservation(
        workload=waits.name, pool=P, slices=runs.slices, demands={"worker": Demand(device_milli=1000)},
        victims=((victim.name, 1),),
    )  # fmt: skip
    snapshot = Snapshot(
        queues={"queues/a": queue("a", quota(5000))},
        workloads={victim.name: victim, waits.name: waits},
        assignments={victim.name: (replace(runs, revoked="preempted"),)},
        reservations={waits.name: held},
    )
    quotas = Quotas.of(snapshot)
    assert ask(quotas, "a", 1000) is Fit.FIT, "what the victim still holds and what is reserved is the same quota"
    freed = Quotas.of(replace(snapshot, assignments={}))
    assert ask(freed, "a", 2000) is Fit.WAIT, "others do not get what was freed"
    mark = freed.mark()
    freed.release(waits.name)
    assert ask(freed, "a", 4000) is Fit.FIT, "the one it was freed for does"
    freed.undo(mark)
    assert ask(freed, "a", 2000) is Fit.WAIT
    freed.release(waits.name)
    assert ask(freed, "a", 4000) is Fit.FIT


def test_quota_that_is_reserved_before_there_is_a_place_counts() -> None:
    waits = workload("projects/a/workloads/waits", group(3), queue="queues/a", pools=(P,), quota_reserved_at=1.0)
    snapshot = Snapshot(queues={"queues/a": queue("a", quota(4000, pool=P))}, workloads={waits.name: waits})
    quotas = Quotas.of(snapshot)
    assert [ask(quotas, "a", amount) for amount in (1000, 2000)] == [Fit.FIT, Fit.WAIT]
    quotas.release(waits.name)
    assert ask(quotas, "a", 4000) is Fit.FIT


def test_shares_are_what_is_taken_beyond_ones_own_by_weight() -> None:
    quotas = quotas_of(
        queue("top"),
        queue("a", quota(4), parent="top"),
        queue("b", quota(4), parent="top", weight=2.0),
        nodes={f"{P}/nodes/n": node("n", devices=8)},
    )
    assert quotas.share("queues/a", {(P, GPU): 4}) == 0.0
    assert quotas.share("queues/a", {(P, GPU): 6}) == pytest.approx(2 / 8)
    assert quotas.share("queues/b", {(P, GPU): 6}) == pytest.approx(1 / 8)
    quotas.charge("queues/a", "projects/a", {(P, GPU): 6})
    assert quotas.share("queues/a") == pytest.approx(2 / 8)
    quotas.charge("queues/a", "projects/a", {(P, "cpu_milli"): 4000})
    assert quotas.share("queues/a") == pytest.approx(0.5), "of cpu, which no quota bounds, half of the fleet's"


def test_the_due_of_a_queue_is_by_its_weight_among_its_siblings() -> None:
    quotas = quotas_of(queue("a"), queue("b", weight=3.0), nodes={f"{P}/nodes/n": node("n", devices=8)})
    quotas.charge("queues/a", "projects/a", {(P, GPU): 4000})
    quotas.charge("queues/b", "projects/b", {(P, GPU): 4000})
    assert quotas.due("queues/a") == pytest.approx(2.0)
    assert quotas.due("queues/b") == pytest.approx(2 / 3)


def test_the_use_of_a_workload_is_of_the_pool_and_of_all_its_groups() -> None:
    gang = workload("projects/a/workloads/w", group(2, cpu_milli=500), group(1, 500, name="driver", cpu_milli=100))
    assert use_of(gang, P, {"worker": 3, "driver": 1}) == {(P, "cpu_milli"): 1600, (P, GPU): 3500}
    assert project_of(gang.name) == "projects/a"


# Against a reference.

_CELLS: tuple[Cell, ...] = ((P, GPU), ("", GPU), (P, "cpu_milli"))
_limit = st.none() | st.integers(0, 6)


@st.composite
def _queues(draw: st.DrawFn) -> dict[str, Queue]:
    queues: dict[str, Queue] = {}
    for at in range(draw(st.integers(1, 6))):
        cells = draw(st.lists(st.sampled_from(_CELLS), unique=True))
        queues[f"queues/q{at}"] = Queue(
            name=f"queues/q{at}",
            parent=draw(st.sampled_from(["", *queues])),
            weight=draw(st.sampled_from([1.0, 2.0])),
            quotas=tuple(
                quota(draw(st.integers(0, 8)), draw(_limit), draw(_limit), pool=pool, name=name) for pool, name in cells
            ),
            project_limits=(quota(draw(st.integers(0, 8))),) if draw(st.booleans()) else (),
        )
    return queues


_uses = st.fixed_dictionaries(
    {}, optional={cell: st.integers(0, 8) for cell in ((P, GPU), ("q", GPU), (P, "cpu_milli"))}
)
_charges = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["projects/x", "projects/y"]), _uses), max_size=6)


class _Reference:
    """The definition, worked out from the charges each time."""

    def __init__(self, queues: Mapping[str, Queue], charges: list[tuple[str, str, Mapping[Cell, int]]]) -> None:
        self.queues, self.charges = queues, charges

    def declared(self, name: str, cell: Cell) -> Quota | None:
        return next((each for each in self.queues[name].quotas if (each.pool, each.resource) == cell), None)

    def is_bounded(self, name: str, cell: Cell) -> bool:
        return bool(self.declared(name, cell)) or (
            bool(self.queues[name].parent) and self.is_bounded(self.queues[name].parent, cell)
        )

    def below(self, name: str) -> list[str]:
        return [each.name for each in self.queues.values() if each.parent == name]

    def subtree(self, name: str, cell: Cell) -> int:
        own = self.declared(name, cell)
        return (own.nominal if own else 0) + sum(
            self.subtree(each, cell) - self.kept(each, cell) for each in self.below(name)
        )

    def kept(self, name: str, cell: Cell) -> int:
        own = self.declared(name, cell)
        if own is None or own.lending_limit is None:
            return 0
        return max(0, self.subtree(name, cell) - own.lending_limit)

    def used(self, name: str, cell: Cell) -> int:
        direct = sum(
            amount
            for queue_, _, use in self.charges
            for (pool, resource), amount in use.items()
            if queue_ == name and resource == cell[1] and cell[0] in ("", pool) and self.is_bounded(name, cell)
        )
        return direct + sum(max(0, self.used(each, cell) - self.kept(each, cell)) for each in self.below(name))

    def available(self, name: str, cell: Cell) -> int:
        own, parent = self.declared(name, cell), self.queues[name].parent
        if not parent:
            return self.subtree(name, cell) - self.used(name, cell)
        above = self.available(parent, cell)
        if own is not None and own.borrowing_limit is not None:
            lent = self.subtree(name, cell) - self.kept(name, cell)
            taken = max(0, self.used(name, cell) - self.kept(name, cell))
            above = min(above, lent - taken + own.borrowing_limit)
        # What a queue keeps for itself is there for it, even where those above use more than they have.
        return max(0, self.kept(name, cell) - self.used(name, cell)) + max(0, above)

    def admits(self, name: str, project: str, use: Mapping[Cell, int]) -> bool:
        for (pool, resource), amount in use.items():
            for cell in {(pool, resource), ("", resource)}:
                total = amount if cell[0] else sum(each for (_, other), each in use.items() if other == resource)
                if not total:
                    continue
                if self.is_bounded(name, cell) and self.available(name, cell) < total:
                    return False
                if not self._is_within_limits(name, project, cell, total):
                    return False
        return True

    def _is_within_limits(self, name: str, project: str, cell: Cell, total: int) -> bool:
        while name:
            for limit in self.queues[name].project_limits:
                if (limit.pool, limit.resource) == cell and self._of_project(
                    name, project, cell
                ) + total > limit.nominal:
                    return False
            name = self.queues[name].parent
        return True

    def _of_project(self, name: str, project: str, cell: Cell) -> int:
        inside = [name]
        for each in inside:
            inside += self.below(each)
        return sum(
            amount
            for queue_, owner, use in self.charges
            for (pool, resource), amount in use.items()
            if queue_ in inside and owner == project and resource == cell[1] and cell[0] in ("", pool)
        )


@settings(max_examples=200, deadline=None)
@given(queues=_queues(), charges=_charges, project=st.sampled_from(["projects/x", "projects/y"]), use=_uses)
def test_it_agrees_with_the_definition(
    queues: dict[str, Queue], charges: Any, project: str, use: Mapping[Cell, int]
) -> None:
    quotas, taken = Quotas.of(Snapshot(queues=queues)), []
    for at, owner, amount in charges:
        name = f"queues/q{at % len(queues)}"
        quotas.charge(name, owner, amount)
        taken.append((name, owner, amount))
    now, idle = _Reference(queues, taken), _Reference(queues, [])
    for name in queues:
        answer = quotas.fit(name, project, use)
        admits, ever = now.admits(name, project, use), idle.admits(name, project, use)
        assert (answer.kind in (Fit.FIT, Fit.BORROW)) == admits
        assert (answer.kind is Fit.NEVER) == (not ever and not admits)
        assert bool(answer.gaps) == (not admits)
    mark = quotas.mark()
    before = [(quotas.fit(name, project, use), quotas.used(name), quotas.share(name)) for name in queues]
    for at, owner, amount in charges:
        quotas.charge(f"queues/q{(at + 1) % len(queues)}", owner, amount)
        quotas.charge(f"queues/q{at % len(queues)}", owner, amount, -1)
    quotas.undo(mark)
    assert before == [(quotas.fit(name, project, use), quotas.used(name), quotas.share(name)) for name in queues]


@settings(max_examples=200, deadline=None)
@given(queues=_queues(), charges=_charges, amount=st.integers(1, 12))
def test_gaps_are_exact(queues: dict[str, Queue], charges: Any, amount: int) -> None:
    """Where a queue has of its own what is missing the most, what it asks for fits; with one less, it does not."""
    name = f"queues/q{len(queues) - 1}"
    queues[name] = replace(queues[name], quotas=(quota(1, 2, None),), project_limits=())
    queues = {each.name: replace(each, project_limits=()) for each in queues.values()}

    def fit(more: int) -> Any:
        own = replace(queues[name].quotas[0], nominal=1 + more)
        quotas = Quotas.of(Snapshot(queues={**queues, name: replace(queues[name], quotas=(own,))}))
        for at, owner, use in charges:
            quotas.charge(f"queues/q{at % len(queues)}", owner, use)
        return quotas.fit(name, "projects/x", {("", GPU): amount})

    answer = fit(0)
    if answer.kind is Fit.WAIT:
        missing = max(each.missing for each in answer.gaps)
        assert fit(missing).kind in (Fit.FIT, Fit.BORROW)
        if queues[name].parent == "":
            assert fit(missing - 1).kind in (Fit.WAIT, Fit.NEVER)
