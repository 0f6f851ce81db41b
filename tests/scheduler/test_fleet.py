"""Where slices go: whole gangs or nothing, packed or spread, near to each other, on nodes that may be used."""

from dataclasses import replace
from typing import Any

import pytest

from services.scheduler.planner.fleet import Ask, Fleet, Shortage, Spot, Want
from services.scheduler.snapshot import (
    Assignment,
    Device,
    Effect,
    Kind,
    Node,
    Ran,
    Slice,
    SliceState,
    Snapshot,
    Taint,
    Toleration,
    Topology,
)
from tests.scheduler.legality import Ledger
from tests.scheduler.world import group, node, workload

RACK = Topology(level="rack")


def fleet_of(*nodes: Node) -> Fleet:
    return Fleet({each.name: each for each in nodes})


def ask(count: int, device_milli: int = 1000, *, most: int = 0, **fields: object) -> Ask:
    demand: dict[str, Any] = {key: fields.pop(key) for key in ("cpu_milli", "device_models") if key in fields}
    wanted = group(count, device_milli, **demand)
    wants = (Want(group=wanted, least=count, most=max(count, most)),)
    return Ask(pool="pools/p", wants=wants, **fields)  # type: ignore[arg-type]


def racks(*sizes: int, devices: int = 8) -> list[Node]:
    """Racks of so many nodes."""
    return [
        node(f"{rack}{at}", devices, labels={"rack": rack}, cpu_milli=64000)
        for rack, size in zip("abcdef", sizes, strict=False)
        for at in range(size)
    ]


def nodes_of(spots: tuple[Spot, ...] | None) -> list[str]:
    assert spots is not None
    return [spot.node.rpartition("/")[2] for spot in spots]


def test_a_gang_gets_all_of_its_least_or_nothing() -> None:
    fleet = fleet_of(node("a", 2), node("b", 1))
    assert fleet.place(ask(4)) is None
    assert fleet.room(ask(4)) == 3
    assert len(fleet.place(ask(3)) or ()) == 3, "what did not fit holds nothing"


def test_what_is_wanted_beyond_the_least_is_given_as_far_as_it_goes() -> None:
    assert len(fleet_of(node("a", 4)).place(ask(1, most=9)) or ()) == 4


def test_nothing_wanted_is_given_nothing_and_is_not_refused() -> None:
    full = fleet_of(node("a", 0))
    assert full.place(ask(0, most=1)) == ()


def test_a_group_that_comes_later_gets_its_least_before_an_earlier_one_gets_more() -> None:
    first, second = group(1, name="first"), group(2, name="second")
    wants = (Want(group=first, least=1, most=4), Want(group=second, least=2, most=2))
    spots = fleet_of(node("a", 4)).place(Ask(pool="pools/p", wants=wants)) or ()
    assert [spot.group for spot in spots] == ["first", "first", "second", "second"]


def test_shares_of_devices_never_span_two() -> None:
    fleet = fleet_of(node("a", 2))
    spots = fleet.place(ask(2, 600)) or ()
    assert sorted(spot.devices for spot in spots) == [(0,), (1,)]
    assert fleet.place(ask(1, 600)) is None, "800 are free, but on two devices"
    assert fleet.place(ask(2, 400)) is not None


def test_a_share_goes_to_a_device_that_is_shared_already() -> None:
    fleet = fleet_of(node("a", 4), node("b", 4))
    first, second = fleet.place(ask(1, 500)), fleet.place(ask(1, 500))
    assert first == second


def test_whole_devices_go_where_least_is_left() -> None:
    fleet = fleet_of(node("a", 8), node("b", 8), node("c", 4))
    assert nodes_of(fleet.place(ask(1, 4000))) == ["c"]
    assert nodes_of(fleet.place(ask(1, 8000))) == ["a"]
    assert nodes_of(fleet.place(ask(1, 8000))) == ["b"]


def test_a_gang_takes_the_fewest_nodes() -> None:
    fleet = fleet_of(node("a", 3), node("b", 8), node("c", 4), node("d", 4))
    assert set(nodes_of(fleet.place(ask(8)))) == {"b"}
    assert set(nodes_of(fleet.place(ask(4)))) == {"c"}


def test_neighbours_in_rank_share_a_node() -> None:
    names = nodes_of(fleet_of(*(node(name, 4) for name in "abc")).place(ask(12)))
    assert [len(set(names[at : at + 4])) for at in (0, 4, 8)] == [1, 1, 1]


def test_a_spread_gang_takes_one_of_each_node_before_it_takes_another() -> None:
    fleet = fleet_of(*(node(name, 4) for name in "abc"))
    names = nodes_of(fleet.place(ask(5, is_spread=True)))
    assert sorted(map(names.count, "abc")) == [1, 2, 2]


def test_a_spread_gang_counts_the_slices_that_stay() -> None:
    fleet = fleet_of(*(node(name, 4) for name in "abc"))
    names = nodes_of(fleet.place(ask(2, is_spread=True, near=("pools/p/nodes/a",))))
    assert sorted(names) == ["b", "c"]


def test_what_is_added_goes_beside_the_slices_that_stay() -> None:
    fleet = fleet_of(node("a", 8), node("b", 2))
    assert nodes_of(fleet.place(ask(2, near=("pools/p/nodes/a",)))) == ["a", "a"]


def test_a_model_is_respected_and_none_means_any() -> None:
    fleet = fleet_of(node("a", 2, model="A"), node("b", 2, model="B"))
    assert nodes_of(fleet.place(ask(2, device_models=frozenset("B")))) == ["b", "b"]
    assert fleet.place(ask(1, device_models=frozenset("BC"))) is None
    assert nodes_of(fleet.place(ask(2))) == ["a", "a"]


def test_on_a_node_of_several_models_the_right_devices_are_taken() -> None:
    devices = (Device(index=3, model="A"), Device(index=5, model="B"), Device(index=7, model="A"))
    fleet = fleet_of(replace(node("a"), devices=devices))
    wanted = ask(1, 2000, device_models=frozenset("A"))
    spots = fleet.place(wanted) or ()
    assert spots[0].devices == (3, 7)
    assert (fleet.place(ask(1, 300, device_models=frozenset("B"))) or ())[0].devices == (5,)
    assert fleet.place(ask(1, 300, device_models=frozenset("A"))) is None


def test_a_node_that_is_closed_tainted_or_lacks_the_label_is_not_used() -> None:
    special = Taint(key="special", value="yes")
    fleet = fleet_of(
        node("closed", is_schedulable=False),
        node("tainted", taints=(special,)),
        node("plain", labels={"disk": "hdd"}),
        node("fast", labels={"disk": "ssd"}),
    )
    assert nodes_of(fleet.place(ask(1, 8000, selector=(("disk", "ssd"),)))) == ["fast"]
    assert fleet.place(ask(1, 8000, selector=(("disk", "ssd"),))) is None
    assert nodes_of(fleet.place(ask(1, 8000))) == ["plain"]
    assert fleet.place(ask(1, 8000)) is None
    assert nodes_of(fleet.place(ask(1, 8000, tolerations=(Toleration(key="special"),)))) == ["tainted"]


def test_a_node_that_prefers_not_to_be_used_is_the_last_resort() -> None:
    fleet = fleet_of(node("a", taints=(Taint(key="t", effect=Effect.PREFER_NO_SCHEDULE),)), node("b"))
    assert nodes_of(fleet.place(ask(1, 8000))) == ["b"]
    assert nodes_of(fleet.place(ask(1, 8000))) == ["a"]


def test_a_label_that_is_selected_first_after_placements_can_still_be_undone() -> None:
    fleet = fleet_of(node("a", labels={"disk": "ssd"}), node("b", labels={"disk": "hdd"}))
    mark = fleet.mark()
    assert fleet.place(ask(3)) is not None
    assert nodes_of(fleet.place(ask(1, selector=(("disk", "hdd"),)))) == ["b"]
    fleet.undo(mark)
    assert fleet.room(ask(16)) == 16


# Topology.


def test_a_gang_stays_within_one_rack_the_one_that_it_fills_best() -> None:
    fleet = fleet_of(*racks(4, 2, 3))
    names = nodes_of(fleet.place(ask(2, 8000, topology=RACK)))
    assert {name[0] for name in names} == {"b"}


def test_a_required_topology_that_no_domain_can_hold_is_refused_and_a_preferred_one_is_not() -> None:
    fleet = fleet_of(*racks(2, 2))
    assert fleet.place(ask(3, 8000, topology=RACK)) is None
    assert fleet.room(ask(3, 8000, topology=RACK)) == 2
    preferred = replace(RACK, is_required=False)
    names = nodes_of(fleet.place(ask(3, 8000, topology=preferred)))
    assert sorted(map([name[0] for name in names].count, "ab")) == [1, 2]


def test_a_preferred_topology_is_kept_where_it_can_be() -> None:
    fleet = fleet_of(*racks(3, 2))
    names = nodes_of(fleet.place(ask(2, 8000, topology=replace(RACK, is_required=False))))
    assert {name[0] for name in names} == {"b"}


def test_each_part_of_a_gang_that_may_be_cut_is_within_one_rack() -> None:
    fleet = fleet_of(*racks(3, 3, 1))
    names = nodes_of(fleet.place(ask(4, 8000, topology=replace(RACK, slice_size=2))))
    assert sorted(map([name[0] for name in names].count, "abc")) == [0, 2, 2]
    assert fleet.place(ask(2, 8000, topology=replace(RACK, slice_size=2))) is None, "one is left of each"
    assert fleet.room(ask(2, 8000, topology=replace(RACK, slice_size=2))) == 0


def test_the_last_part_of_a_gang_may_be_smaller() -> None:
    fleet = fleet_of(*racks(2, 1))
    wanted = ask(3, 8000, topology=replace(RACK, slice_size=2))
    assert fleet.room(wanted) == 3
    assert sorted(name[0] for name in nodes_of(fleet.place(wanted))) == ["a", "a", "b"]


def test_a_surplus_of_parts_goes_anywhere_where_nearness_is_only_preferred() -> None:
    nowhere = node("n", 4)
    preferred = Topology(level="rack", is_required=False, slice_size=2)
    assert len(fleet_of(nowhere).place(ask(1, most=4, topology=preferred)) or ()) == 4


def test_a_node_that_is_in_no_rack_serves_no_gang_that_requires_one() -> None:
    fleet = fleet_of(node("a"))
    assert fleet.place(ask(1, topology=RACK)) is None
    assert fleet.place(ask(1)) is not None


def test_the_host_is_a_domain_of_its_own() -> None:
    fleet = fleet_of(node("a", 3), node("b", 4))
    assert set(nodes_of(fleet.place(ask(4, topology=Topology(level="host"))))) == {"b"}
    assert fleet.place(ask(4, topology=Topology(level="host"))) is None


def test_what_is_added_to_a_gang_stays_in_its_rack() -> None:
    fleet = fleet_of(*racks(2, 1))
    near = ("pools/p/nodes/a0",)
    fleet.hold(near[0], group(1, 8000).demand, range(8))
    assert nodes_of(fleet.place(ask(1, 8000, topology=RACK, near=near))) == ["a1"]
    assert fleet.place(ask(1, 8000, topology=RACK, near=near)) is None


def test_racks_of_the_same_name_in_two_pools_are_two_racks() -> None:
    here, there = node("a", labels={"rack": "r"}), node("b", labels={"rack": "r"}, pool="pools/q")
    assert fleet_of(here, there).place(ask(2, 8000, topology=RACK)) is None


def test_a_spread_gang_is_spread_within_its_rack() -> None:
    names = nodes_of(fleet_of(*racks(3, 5)).place(ask(3, topology=RACK, is_spread=True)))
    assert len(set(names)) == 3
    assert len({name[0] for name in names}) == 1


# Why not.


def test_shortages_say_what_is_needed_and_what_is_free() -> None:
    fleet = fleet_of(node("a", 2, cpu_milli=8000))
    assert fleet.place(ask(1, cpu_milli=5000)) is not None
    assert fleet.shortages(ask(2, cpu_milli=2000)) == [
        Shortage(resource="device_milli", needed=2000, free=1000),
        Shortage(resource="cpu_milli", needed=4000, free=3000),
    ]
    assert fleet.shortages(ask(1, cpu_milli=2000)) == []


def test_whether_it_ever_fits_does_not_depend_on_what_runs() -> None:
    fleet = fleet_of(node("a", 2))
    assert fleet.place(ask(2)) is not None
    assert fleet.ever_fits(ask(2))
    assert not fleet.ever_fits(ask(3))
    assert fleet.place(ask(1)) is None


# From a snapshot.


def _running(state: SliceState = SliceState.RUNNING, session: str = "session of a") -> Snapshot:
    here, wanted = node("a", 4), group(2)
    slices = tuple(Slice(index=at, group="worker", node=here.name, devices=(at,), state=state) for at in range(2))
    assignment = Assignment(
        workload="w",
        generation=1,
        pool="pools/p",
        slices=slices,
        sessions={here.name: session},
        groups={"worker": Ran(demand=wanted.demand, program=b"1")},
    )
    return Snapshot(
        pools=frozenset({"pools/p"}),
        nodes={here.name: here},
        workloads={"w": workload("w", wanted, kind=Kind.TRAINING)},
        assignments={"w": (assignment,)},
    )


@pytest.mark.parametrize(
    ("snapshot", "room"),
    [
        (_running(), 2),
        (_running(SliceState.SUCCEEDED), 4),
        (_running(session="one that is over"), 4),
    ],
)
def test_a_snapshot_holds_what_runs_on_the_session_that_is_there(snapshot: Snapshot, room: int) -> None:
    assert Fleet.of(snapshot).room(ask(4)) == room


def test_a_slice_that_is_released_gives_its_place_to_another_until_that_is_undone() -> None:
    snapshot = _running()
    fleet = Fleet.of(snapshot)
    mark = fleet.mark()
    fleet.release(snapshot.assignments["w"][0], [1])
    spots = fleet.place(ask(3))
    assert sorted(spot.devices for spot in spots or ()) == [(1,), (2,), (3,)]
    fleet.undo(mark)
    assert fleet.room(ask(4)) == 2
    fleet.release(snapshot.assignments["w"][0])
    assert fleet.room(ask(4)) == 4


def test_what_is_reserved_for_another_is_legal_to_hold_twice_and_leaves_nothing_negative() -> None:
    """A reservation may stand on places that its victims still hold: both are held, and room is never below none."""
    snapshot = _running()
    fleet = Fleet.of(snapshot)
    mark = fleet.mark()
    fleet.hold("pools/p/nodes/a", group(1, 2000).demand, (0, 1))
    assert fleet.room(ask(4)) == 2
    fleet.release(snapshot.assignments["w"][0])
    assert fleet.room(ask(4)) == 2
    fleet.undo(mark)
    assert fleet.room(ask(4)) == 2


def test_the_ledger_that_checks_the_others_finds_faults() -> None:
    """A control: the checker of these tests refuses what is not legal."""
    here = node("a", 1)
    ledger, wanted = Ledger({here.name: here}), ask(2, 600)
    spot = Spot(group="worker", node=here.name, devices=(0,))
    with pytest.raises(AssertionError, match="over-allocated"):
        ledger.check_and_hold(wanted, (spot, spot))
    with pytest.raises(AssertionError):
        ledger.check_and_hold(ask(1, 1000), (replace(spot, devices=()),))
