"""The allocation program: its worked example, its proofs of infeasibility, and its optimum against other algorithms."""

import random
from collections import defaultdict

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.errors import InvalidArgument
from services.scheduler.planning.allocation import allocate
from services.scheduler.planning.demand import Allocation, Demand, Grant, Source
from services.scheduler.planning.shortage import Shortage, shortages

pytestmark = pytest.mark.exhaustive

GENERAL = Source(name="general", nodes=8, capacity={"cores": 2000, "storage": 1e12}, kind="GENERAL")
FAST = Source(name="fast", nodes=2, capacity={"cores": 2000, "storage": 1e12}, kind="PERFORMANCE")
STORE = Source(name="store", nodes=3, capacity={"storage": 100e12}, kind="STORAGE")
KINDS = ("GENERAL", "PERFORMANCE", "STORAGE")
RESOURCES = ("cores", "storage")
LIMITS = settings(max_examples=40, deadline=None)


def demand(name: str, *kinds: str, **amounts: float) -> Demand:
    return Demand(name=name, amounts=amounts, kinds=frozenset(kinds))


@st.composite
def worlds(draw: st.DrawFn, resources: tuple[str, ...] = RESOURCES) -> tuple[list[Demand], list[Source]]:
    """Small whole amounts of cores, and as many terabytes: one program, twelve orders of magnitude."""
    scale = {"cores": 1, "storage": 10**12}

    def amounts(least: int, most: int) -> dict[str, float]:
        chosen = draw(st.sets(st.sampled_from(resources), min_size=1))
        return {each: draw(st.integers(least, most)) * scale[each] for each in sorted(chosen)}

    sources = [
        Source(
            name=f"s{index}",
            nodes=draw(st.integers(1, 4)),
            capacity=amounts(0, 5),
            price={each: draw(st.integers(1, 9)) / scale[each] for each in resources},
            kind=draw(st.sampled_from(KINDS)),
        )
        for index in range(draw(st.integers(1, 4)))
    ]
    demands = [
        Demand(name=f"d{index}", amounts=amounts(1, 12), kinds=frozenset(draw(st.sets(st.sampled_from(KINDS)))))
        for index in range(draw(st.integers(1, 4)))
    ]
    return demands, sources


def given_to(found: Allocation) -> dict[tuple[str, str], float]:
    """What each demand gets of each resource."""
    total: dict[tuple[str, str], float] = defaultdict(float)
    for each in found.grants:
        for resource, value in each.amounts.items():
            total[each.demand, resource] += value
    return total


def flow(resource: str, demands: list[Demand], sources: list[Source]) -> tuple[float, float]:
    """How much of a resource can be given at the most, and its least price, by min-cost flow on whole numbers."""
    unit = 1 if resource == "cores" else 10**12
    graph = nx.DiGraph()
    graph.add_nodes_from(("from", "to"))
    for each in demands:
        if resource not in each.amounts:
            continue
        graph.add_edge("from", each.name, capacity=round(each.amounts[resource] / unit), weight=0)
        for source in sources:
            if each.allows(source):
                graph.add_edge(each.name, source.name, weight=round(source.price_of(resource) * unit))
                graph.add_edge(source.name, "to", capacity=round(source.total(resource) / unit), weight=0)
    routes = nx.max_flow_min_cost(graph, "from", "to")
    return sum(routes["from"].values()) * unit, nx.cost_of_flow(graph, routes)


def test_four_thousand_cores_on_eight_general_machines_are_five_hundred_on_each() -> None:
    found = allocate([demand("task", "GENERAL", cores=4000, storage=2e12)], [GENERAL, FAST])
    assert found.is_feasible
    assert found.grants == (
        Grant(
            demand="task",
            source="general",
            amounts={"cores": 4000, "storage": 2e12},
            per_node={"cores": 500, "storage": 0.25e12},
        ),
    )


def test_the_cheapest_source_is_filled_first() -> None:
    spot = Source(name="spot", nodes=1, capacity={"cores": 2000}, price={"cores": 0.25}, kind="SPOT")
    found = allocate([demand("task", cores=5000)], [GENERAL, spot])
    assert {each.source: each.amounts["cores"] for each in found.grants} == {"spot": 2000, "general": 3000}
    assert found.cost == 3500


def test_what_is_wanted_together_is_given_together() -> None:
    found = allocate([demand("task", cores=4000, storage=2e12)], [GENERAL, FAST, STORE])
    assert {each.source for each in found.grants} <= {"general", "fast"}
    for each in found.grants:
        assert each.amounts["cores"] / 4000 == pytest.approx(each.amounts["storage"] / 2e12)


def test_only_what_cannot_be_met_together_is_met_apart() -> None:
    found = allocate([demand("task", cores=100, storage=20e12)], [GENERAL, FAST, STORE])
    assert found.is_feasible
    apart = [each for each in found.grants if each.source == "store"]
    assert apart[0].amounts == {"storage": 10e12}, "the ten machines with cores have room for half of it"


def test_a_shortage_is_told_in_numbers_with_the_nearest_plan() -> None:
    found = allocate(
        [demand("task", "GENERAL", cores=20000, storage=2e12), demand("other", cores=1000)], [GENERAL, FAST]
    )
    assert not found.is_feasible
    assert found.violated == ("cores: task needs 20000 of class GENERAL, but general (8 x 2000) has 16000: 4000 short",)
    assert given_to(found) == pytest.approx(
        {("task", "cores"): 16000, ("task", "storage"): 1.6e12, ("other", "cores"): 1000}
    )


def test_a_class_that_nobody_has_is_told() -> None:
    found = allocate([demand("task", "EDGE", cores=1)], [GENERAL])
    assert found.violated == ("cores: task needs 1 of class EDGE, but no source of such a class has any",)
    assert found.grants == ()


def test_two_that_are_alike_fall_short_alike() -> None:
    found = allocate([demand("one", cores=3000), demand("two", cores=3000)], [FAST])
    assert given_to(found) == pytest.approx({("one", "cores"): 2000, ("two", "cores"): 2000})
    assert found.violated == ("cores: one and two need 6000 of any class, but fast (2 x 2000) has 4000: 2000 short",)


def test_shortages_that_have_nothing_to_do_with_each_other_are_told_apart() -> None:
    demands = [demand("a", "GENERAL", cores=17000), demand("b", "PERFORMANCE", cores=5000), demand("c", storage=1e15)]
    said = allocate(demands, [GENERAL, FAST, STORE]).violated
    assert [each.split()[1] for each in said] == ["a", "b", "c"]


def test_a_program_that_would_take_too_long_is_refused_with_its_size() -> None:
    demands = [demand(f"d{index}", cores=1 + index) for index in range(400)]
    sources = [Source(name=f"s{index}", nodes=1, capacity={"cores": 1}) for index in range(400)]
    with pytest.raises(InvalidArgument, match="PLAN_TOO_LARGE.*160000 variables"):
        allocate(demands, sources)


@LIMITS
@given(worlds())
def test_no_machine_gives_more_than_it_has_nor_a_class_that_was_not_asked_for(
    world: tuple[list[Demand], list[Source]],
) -> None:
    demands, sources = world
    found = allocate(demands, sources)
    by_name = {each.name: each for each in sources}
    on_each: dict[tuple[str, str], float] = defaultdict(float)
    for grant in found.grants:
        assert next(each for each in demands if each.name == grant.demand).allows(by_name[grant.source])
        for resource, value in grant.per_node.items():
            assert value * by_name[grant.source].nodes == pytest.approx(grant.amounts[resource])
            on_each[grant.source, resource] += value
    for (source, resource), value in on_each.items():
        assert value <= by_name[source].capacity[resource] * (1 + 1e-6)


@LIMITS
@given(worlds())
def test_it_is_feasible_exactly_when_each_resource_can_flow(world: tuple[list[Demand], list[Source]]) -> None:
    demands, sources = world
    found = allocate(demands, sources)
    total = {each: sum(one.amounts.get(each, 0) for one in demands) for each in RESOURCES}
    missing = {each: total[each] - flow(each, demands, sources)[0] for each in RESOURCES}
    assert found.is_feasible == (not any(missing.values()))
    proofs = shortages(demands, sources)
    for resource in RESOURCES:
        short = sum(each.needed - each.available for each in proofs if each.resource == resource)
        assert short == pytest.approx(missing[resource], rel=1e-6)
    for proof in proofs:
        check(proof, sources)
    if found.is_feasible:
        wanted = {(each.name, resource): value for each in demands for resource, value in each.amounts.items()}
        assert given_to(found) == pytest.approx(wanted)


def check(proof: Shortage, sources: list[Source]) -> None:
    """A proof stands by itself: no source that its demands may use is left out, and they want more than all have."""
    usable = [each for each in sources if any(one.allows(each) for one in proof.demands) and each.total(proof.resource)]
    assert [each.name for each in proof.sources] == [each.name for each in usable]
    assert proof.needed > proof.available


@LIMITS
@given(worlds(("cores",)))
def test_the_price_is_that_of_the_cheapest_flow(world: tuple[list[Demand], list[Source]]) -> None:
    demands, sources = world
    found = allocate(demands, sources)
    if found.is_feasible:
        assert found.cost == pytest.approx(flow("cores", demands, sources)[1])


@LIMITS
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 100))
def test_the_nearest_plan_has_the_least_total_shortfall(wanted: list[int], there: int) -> None:
    demands = [demand(f"d{index}", cores=value) for index, value in enumerate(wanted)]
    total = given_to(allocate(demands, [Source(name="s", nodes=1, capacity={"cores": there})]))
    shortfall = sum(1 - total[each.name, "cores"] / each.amounts["cores"] for each in demands)
    left, least = there, 0.0
    for value in sorted(wanted):  # a unit is worth 1 / value: the small first
        least += 1 - min(left, value) / value
        left -= min(left, value)
    assert shortfall == pytest.approx(least, abs=1e-6)


@LIMITS
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_the_question_changes_nothing(
    world: tuple[list[Demand], list[Source]], chance: random.Random
) -> None:
    demands, sources = world
    found = allocate(demands, sources)
    chance.shuffle(demands)
    chance.shuffle(sources)
    assert allocate(demands, sources) == found


def test_bytes_and_cores_stand_in_one_program() -> None:
    found = allocate([demand("big", storage=250e12), demand("tiny", storage=1.0, cores=1.0)], [GENERAL, STORE])
    assert found.is_feasible
    assert given_to(found)["tiny", "storage"] == 1.0
