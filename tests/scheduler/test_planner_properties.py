"""The planner under random histories: nodes come and go, slices fail, workloads are cancelled, in any order."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from services.scheduler.lifecycle import FINAL, OVER
from services.scheduler.snapshot import Assignment, Kind, SliceState, State
from tests.scheduler.world import FENCE_S, World, group, node, workload

POOLS = ("pools/p", "pools/q")


class Fleet(RuleBasedStateMachine):
    """Random events; after each, nothing is over-allocated, gangs are whole, and generations do not overlap."""

    @initialize(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5))
    def begin(self, sizes: list[int]) -> None:
        self.world = World(pools=POOLS)
        self.life = 0
        for at, size in enumerate(sizes):
            self.world.restore(node(f"n{at}", size, pool=POOLS[at % 2]))
        self.known = dict(self.world.nodes)

    @rule(
        count=st.integers(1, 4),
        extra=st.integers(0, 3),
        milli=st.sampled_from([0, 300, 500, 1000, 2000]),
        kind=st.sampled_from(list(Kind)),
        priority=st.integers(-1, 1),
        restarts=st.integers(0, 2),
        cpu=st.sampled_from([0, 1000, 5000]),
        pools=st.sampled_from([(), ("pools/p",), ("pools/q", "pools/p")]),
    )
    def submit(
        self,
        count: int,
        extra: int,
        milli: int,
        kind: Kind,
        priority: int,
        restarts: int,
        cpu: int,
        pools: tuple[str, ...],
    ) -> None:
        if len(self.world.workloads) < 12:
            wanted = group(count, milli, most=count + extra, cpu_milli=cpu)
            name = f"w{len(self.world.workloads)}"
            self.world.submit(workload(name, wanted, kind=kind, priority=priority, max_restarts=restarts, pools=pools))

    @rule(data=st.data())
    def a_node_vanishes(self, data: st.DataObject) -> None:
        if self.world.nodes:
            self.world.lose(data.draw(st.sampled_from(sorted(self.world.nodes))))

    @rule(data=st.data(), afresh=st.booleans())
    def a_node_returns(self, data: st.DataObject, afresh: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        self.life += afresh
        each = self.known[name]
        if afresh:
            each = replace(each, session=f"{name} {self.life}")
            self.known[name] = each
        elif name not in self.world.nodes and self.world.now >= self.world.gone.get(name, 0.0) + FENCE_S:
            each = self.known[name] = replace(each, session=f"{name} fenced {self.world.now}")  # it has fenced itself
        self.world.restore(each)

    @rule(data=st.data(), state=st.sampled_from([SliceState.RUNNING, SliceState.SUCCEEDED, SliceState.FAILED]))
    def a_slice_reports(self, data: st.DataObject, state: SliceState) -> None:
        live = self._live()
        if live:
            assignment, index = data.draw(st.sampled_from(live))
            self.world.report(assignment.workload, index, state, assignment.generation)

    @rule()
    def stopped_slices_report(self) -> None:
        for assignment, index in self._live():
            if assignment.revoked:
                self.world.report(assignment.workload, index, SliceState.STOPPED, assignment.generation)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        live = [name for name, each in self.world.workloads.items() if each.state not in OVER]
        if live:
            name = data.draw(st.sampled_from(live))
            self.world.workloads[name] = replace(self.world.workloads[name], state=State.CANCELLING)

    @rule(data=st.data(), count=st.integers(1, 4))
    def change(self, data: st.DataObject, count: int) -> None:
        serving = [
            name for name, each in self.world.workloads.items() if each.kind is Kind.SERVING and each.state not in OVER
        ]
        if serving:
            name = data.draw(st.sampled_from(serving))
            before = self.world.workloads[name]
            self.world.workloads[name] = replace(
                before, groups=(replace(before.groups[0], min_count=count, max_count=count),)
            )

    @rule(seconds=st.sampled_from([0.1, 1.0, FENCE_S / 2, FENCE_S, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.settle()

    @rule()
    def plan_once(self) -> None:
        self.world.plan()

    @rule()
    def plan_until_nothing_changes(self) -> None:
        self.world.settle()

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """Everything that is cancelled comes to an end once the nodes are there and the slices have stopped."""
        if not hasattr(self, "world"):
            return
        for name, each in self.world.workloads.items():
            if each.state not in OVER:
                self.world.workloads[name] = replace(each, state=State.CANCELLING)
        for _ in range(3):
            self.world.settle()
            self.world.now += 10 * FENCE_S
            self.stopped_slices_report()
        assert not any(
            each.state not in OVER or each.state is State.CANCELLING for each in self.world.workloads.values()
        )
        assert not any(self.world.assignments.values()), "something of a workload that has ended is left"

    def _live(self) -> list[tuple[Assignment, int]]:
        """Slices whose agents can report."""
        return [
            (assignment, each.index)
            for generations in self.world.assignments.values()
            for assignment in generations.values()
            for each in assignment.slices
            if each.state not in FINAL
            and (here := self.world.nodes.get(each.node)) is not None
            and here.session == assignment.sessions[each.node]
        ]


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.slow
def test_many_fleets() -> None:
    run_state_machine_as_test(
        Fleet,
        settings=settings(
            max_examples=5000, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
