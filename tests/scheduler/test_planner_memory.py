"""What a planner remembers from one cycle to the next makes it faster and changes no plan."""

from dataclasses import replace

import pytest

from services.scheduler.planner import Memory, Plan, plan
from services.scheduler.planner.fleet import Ask, Fleet, Want
from services.scheduler.simulator import Costs, Simulation, World, fleet, philly
from services.scheduler.simulator.discipline import DISCIPLINES
from services.scheduler.snapshot import Assignment, Group, Ran, Slice, Snapshot
from tests.scheduler.world import group, node, workload


@pytest.mark.parametrize(("discipline", "seed"), [("default", 1), ("cohort", 2), ("fifo", 3), ("fair", 4)])
def test_plans_are_the_same_with_a_memory_and_without(discipline: str, seed: int) -> None:
    chosen = DISCIPLINES[discipline]
    rows = philly.generate(90, seed, span_s=90 * 60.0, max_devices=16)
    jobs = tuple(philly.jobs(rows, per_node=4, knows_duration=chosen.knows_duration))
    machines = fleet.nodes(fleet.count_for(jobs, 4, 1.3), 4, pool=philly.POOL)
    queues = chosen.queues((each.project for each in jobs), len(machines) * 4)
    memory, cycles = Memory(), 0

    def both(snapshot: Snapshot, now: float) -> Plan:
        nonlocal cycles
        cycles += 1
        planned = plan(snapshot, now, memory)
        assert planned == plan(snapshot, now), f"seed {seed}, at {now}"
        return planned

    Simulation(
        World(pools=(philly.POOL,), queues=queues),
        jobs,
        machines,
        planner=both,
        costs=Costs(checkpoint_every_s=600.0),
        interval_s=20.0,
        leaves=[(3000.0, machines[0].name)],
        joins=[(5000.0, replace(machines[0], session="again"))],
    ).run()
    assert cycles > 60


def _snapshot(taken: int, *, wanting: Group | None = None) -> Snapshot:
    """One node of 8 devices, of which the first so many are taken."""
    here = node("n1", 8)
    held = group(1, 1000 * taken)
    running = Assignment(
        workload="projects/a/workloads/w",
        generation=1,
        pool="pools/p",
        slices=(Slice(index=0, group="worker", node=here.name, devices=tuple(range(taken))),),
        sessions={here.name: here.session},
        groups={"worker": Ran(demand=held.demand, program=b"")},
    )
    waiting = workload("projects/a/workloads/x", wanting or group(1))
    return Snapshot(
        pools=frozenset({"pools/p"}),
        nodes={here.name: here},
        workloads={waiting.name: waiting},
        assignments={running.workload: (running,)} if taken else {},
    )


def _room(found: Fleet) -> int:
    wanting = group(8)
    return found.room(Ask(pool="pools/p", wants=(Want(group=wanting, least=8, most=8),)))


def test_a_fleet_is_brought_up_to_date() -> None:
    memory = Memory()
    for taken in (3, 5, 0, 8, 2):
        snapshot = _snapshot(taken)
        assert _room(memory.fleet(snapshot)) == 8 - taken == _room(Fleet.of(snapshot))


def test_what_a_cycle_tries_and_keeps_is_forgotten() -> None:
    memory, snapshot = Memory(), _snapshot(3)
    found = memory.fleet(snapshot)
    found.hold(node("n1").name, group(1, 4000).demand, (4, 5, 6, 7))
    assert _room(found) == 1
    assert _room(memory.fleet(snapshot)) == 5


def test_a_node_that_has_changed_is_seen() -> None:
    memory, snapshot = Memory(), _snapshot(2)
    assert _room(memory.fleet(snapshot)) == 6
    (here,) = snapshot.nodes.values()
    assert _room(memory.fleet(replace(snapshot, nodes={here.name: replace(here, session="afresh")}))) == 8
    assert _room(memory.fleet(replace(snapshot, nodes={}))) == 0
    assert _room(memory.fleet(snapshot)) == 6
