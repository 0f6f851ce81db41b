"""The loops that the rate is measured with keep to the rules: nothing is over-allocated, gangs stay in their rack."""

from random import Random

import pytest

from bench import placement_rate
from bench.placement_rate import RACK, RACK_NODES, Engine, fleet_nodes, queue
from services.scheduler.snapshot import Topology
from tests.scheduler.legality import Ledger

NODES = 2 * RACK_NODES


@pytest.mark.parametrize("topology", [None, Topology(level=RACK)])
def test_the_fleet_is_kept_full_and_never_over_allocated(topology: Topology | None) -> None:
    nodes, random = fleet_nodes(NODES), Random(1)
    loop = Engine(nodes, queue(800, 1, topology))
    loop.fill()
    for _ in range(5):
        loop.end(random, 20)
        loop.fill()
        ledger = Ledger(nodes)
        for demand, spots in loop.running:
            assert len({nodes[spot.node].labels[RACK] for spot in spots}) == 1 or topology is None or len(spots) == 1
            for spot in spots:
                ledger.hold(spot.node, demand, spot.devices)
        assert sum(ledger.devices.values()) > 0.95 * 1000 * len(ledger.devices)
    assert loop.placed == len(loop.running) + 5 * 20


def test_the_first_of_the_queue_goes_first() -> None:
    waiting = queue(800, 2, None)
    loop = Engine(fleet_nodes(2), waiting)
    loop.fill()
    first = min(waiting, key=lambda each: (-each.priority, each.submitted))
    assert loop.running[0][0] == first.groups[0].demand


@pytest.mark.exhaustive
def test_all_figures_are_there_for_a_small_fleet() -> None:
    figures = placement_rate.measure(nodes=RACK_NODES, queued=400)
    assert figures["engine"]["whole"]["placements_per_s"] > 0
    assert figures["engine"]["rack_required"]["device_use_pct"] > 90
    assert figures["cycle"]["whole"]["steady_placements_per_s"] >= 0
