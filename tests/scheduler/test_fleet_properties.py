"""The fleet under random histories, against a ledger of its own: legal, complete, undone exactly, in a total order."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from services.scheduler.planner.fleet import Ask, Fleet, Spot, Want
from services.scheduler.snapshot import Demand, Device, Effect, Group, Node, Taint, Toleration, Topology
from tests.scheduler.legality import Ledger

POOLS = ("pools/p", "pools/q")
LEVELS = ("rack", "zone", "host")
_GIB = 1 << 30

taints = st.sampled_from(
    [(), (), (), (Taint(key="t"),), (Taint(key="u", value="v", effect=Effect.PREFER_NO_SCHEDULE),)]
)
demands = st.builds(
    Demand,
    cpu_milli=st.sampled_from([0, 1000, 3000]),
    memory_bytes=st.sampled_from([0, 4 * _GIB]),
    storage_bytes=st.sampled_from([0, 0, 0, 10 * _GIB]),
    network_mbps=st.sampled_from([0, 0, 0, 1000]),
    device_milli=st.sampled_from([0, 100, 250, 300, 500, 600, 1000, 1000, 2000, 4000]),
    device_models=st.sampled_from([frozenset[str](), frozenset[str](), frozenset("A"), frozenset("AB")]),
)
topologies = st.one_of(
    st.none(),
    st.builds(
        Topology, level=st.sampled_from(LEVELS), is_required=st.booleans(), slice_size=st.sampled_from([0, 0, 1, 2])
    ),
)


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Node]:
    """A few nodes, of one model or of several."""
    found = {}
    for at in range(draw(st.integers(1, 7))):
        models = draw(st.sampled_from(["A", "A", "B", "AB", ""]))
        number = draw(st.sampled_from([0, 1, 2, 4, 8]))
        indices = draw(st.sampled_from([range(number), range(3, number + 3), range(number - 1, -1, -1)]))
        name = f"n{at}"
        found[name] = Node(
            name=name,
            pool=draw(st.sampled_from([POOLS[0], POOLS[0], POOLS[1]])),
            session=name,
            cpu_milli=draw(st.sampled_from([4000, 16000])),
            memory_bytes=16 * _GIB,
            storage_bytes=40 * _GIB,
            network_mbps=3000,
            devices=tuple(Device(index=i, model=models[i % len(models)] if models else "") for i in indices),
            labels={"rack": draw(st.sampled_from("xy")), "zone": draw(st.sampled_from(["", "z"]))},
            taints=draw(taints),
            is_schedulable=draw(st.sampled_from([True, True, True, False])),
        )
    return found


@st.composite
def asks(draw: st.DrawFn, groups: int = 2) -> Ask:
    """One or two groups, alone or together."""
    wants = []
    for at in range(draw(st.integers(1, groups))):
        least = draw(st.integers(0, 5))
        demand = draw(demands)
        group = Group(name=f"g{at}", min_count=least, max_count=least + 2, demand=demand, program=b"")
        wants.append(Want(group=group, least=least, most=least + draw(st.sampled_from([0, 0, 2]))))
    return Ask(
        pool=draw(st.sampled_from([POOLS[0], POOLS[0], POOLS[1]])),
        wants=tuple(wants),
        selector=draw(st.sampled_from([(), (), (), (("rack", "x"),)])),
        tolerations=draw(st.sampled_from([(), (Toleration(),)])),
        topology=draw(topologies),
        is_spread=draw(st.booleans()),
    )


def check_complete(ledger: Ledger, ask: Ask, spots: tuple[Spot, ...] | None) -> None:
    """For one group it is known exactly what fits: nothing that fits is refused, and no surplus is left out."""
    want, topology = ask.wants[0], ask.topology
    if len(ask.wants) > 1:
        return
    if topology is None or not topology.is_required:
        fits = ledger.fits(ask)
        assert (spots is not None) == (fits >= want.least)
        if spots is not None:
            assert len(spots) == min(want.most, fits)
    elif not topology.slice_size:
        assert (spots is not None) == (want.least == 0 or ledger.fits_within(ask, topology.level) >= want.least)


def check_near(ledger: Ledger, ask: Ask, spots: tuple[Spot, ...]) -> None:
    """A required topology is kept: all of the least, or each part of it, within one domain."""
    topology = ask.topology
    if topology is None or not topology.is_required:
        return
    domains = [
        spot.node if topology.level == "host" else ledger.nodes[spot.node].labels[topology.level] for spot in spots
    ]
    assert all(domains)
    if not topology.slice_size:
        assert len(set(domains)) <= 1
        return
    for want in ask.wants:
        of_group = [domain for domain, spot in zip(domains, spots, strict=True) if spot.group == want.group.name]
        parts = sum(-(-of_group.count(domain) // topology.slice_size) for domain in set(of_group))
        surplus = len(of_group) - want.least
        most = -(-want.least // topology.slice_size) + -(-surplus // topology.slice_size)
        assert parts <= most, "a part is torn"


class Histories(RuleBasedStateMachine):
    """Placements, endings and undoing in any order, beside a ledger that counts for itself."""

    @initialize(given=nodes())
    def begin(self, given: dict[str, Node]) -> None:
        self.fleet = Fleet(given)
        self.ledger = Ledger(given)
        self.held: list[tuple[str, Demand, tuple[int, ...]]] = []
        self.marks: list[tuple[int, Ledger, list[tuple[str, Demand, tuple[int, ...]]]]] = []

    @rule(ask=asks())
    def place(self, ask: Ask) -> None:
        room, mark = self.fleet.room(ask), self.fleet.mark()
        before = self.ledger.copy()
        spots = self.fleet.place(ask)
        check_complete(before, ask, spots)
        if spots is None:
            assert self.fleet.mark() == mark, "what was refused holds something"
            return
        if len(ask.wants) == 1:
            assert room == ask.wants[0].least
        check_near(self.ledger, ask, spots)
        self.ledger.check_and_hold(ask, spots)
        demands_ = {want.group.name: want.group.demand for want in ask.wants}
        self.held += [(spot.node, demands_[spot.group], spot.devices) for spot in spots]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        one = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.ledger.hold(*one, sign=-1)
        self.fleet.free(*one)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def move_back(self, data: st.DataObject) -> None:
        """A slice ends, and one like it is held in its very place."""
        one = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        self.fleet.free(*one)
        self.fleet.hold(*one)

    @rule()
    def mark(self) -> None:
        self.marks.append((self.fleet.mark(), self.ledger.copy(), list(self.held)))

    @precondition(lambda self: self.marks)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.marks) - 1))
        mark, self.ledger, self.held = self.marks[at]
        del self.marks[at:]
        self.fleet.undo(mark)

    @invariant()
    def is_as_the_ledger_says(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for name, machine in self.fleet._grid.machines.items():
            levels = {index: machine.free[at] for index, at in machine.positions.items()}
            assert levels == {index: 1000 - self.ledger.devices[name, index] for index in levels}
            assert machine.cell.free == machine.canonical()
            free = tuple(getattr(self.ledger.nodes[name], each) for each in _RESOURCES)
            used = tuple(self.ledger.amounts[name, each] for each in _RESOURCES)
            assert machine.cell.amounts == tuple(have - take for have, take in zip(free, used, strict=True))
        rows = [cell for cell in self.fleet._grid.rows if cell is not None]
        assert sum(cell.size for cell in rows) == len(self.fleet._grid.machines)
        assert all(rows.count(cell) == 1 and self.fleet._grid.rows[cell.row] is cell for cell in rows)


_RESOURCES = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps")
_QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def test_random_histories_are_legal_complete_and_undone_exactly() -> None:
    run(seed(20261121)(Histories), settings=settings(_QUICK, max_examples=60, stateful_step_count=20))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_histories_are_legal_complete_and_undone_exactly() -> None:
    run(Histories, settings=settings(_QUICK, max_examples=2_000, stateful_step_count=40))


def _held(fleet: Fleet, given: Mapping[str, Node], asked: list[Ask]) -> list[tuple[Spot, ...] | None]:
    return [fleet.place(each) for each in asked]


@seed(20261121)
@settings(_QUICK, max_examples=50)
@given(given=nodes(), first=st.lists(asks(), max_size=6), then=st.lists(asks(), min_size=1, max_size=6))
def test_what_was_undone_leaves_no_trace_in_what_follows(
    given: dict[str, Node], first: list[Ask], then: list[Ask]
) -> None:
    fleet, fresh = Fleet(given), Fleet(given)
    mark = fleet.mark()
    for each in first:
        fleet.place(each)
    fleet.undo(mark)
    assert _held(fleet, given, then) == _held(fresh, given, then)


@seed(20261121)
@settings(_QUICK, max_examples=50)
@given(
    given=nodes(),
    first=st.lists(asks(), max_size=6),
    then=st.lists(asks(), min_size=1, max_size=6),
    shuffled=st.integers(0, 1 << 30),
)
def test_the_choice_depends_on_what_is_free_and_not_on_how_that_came_about(
    given: dict[str, Node], first: list[Ask], then: list[Ask], shuffled: int
) -> None:
    fleet = Fleet(given)
    held = [
        (spot, want.group.demand)
        for each in first
        for spot in fleet.place(each) or ()
        for want in each.wants
        if want.group.name == spot.group
    ]
    order = random.Random(shuffled)
    order.shuffle(held)
    names = list(given)
    order.shuffle(names)
    other = Fleet({name: given[name] for name in names})
    for spot, demand in held:
        other.hold(spot.node, demand, spot.devices)
    assert _held(fleet, given, then) == _held(other, given, then)
