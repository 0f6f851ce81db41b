"""How fast the planner decides: a fleet kept full by a long queue of gangs, and how that grows with the fleet.

`python -m bench.placement_rate [--nodes 10000] [--queued 100000] [--json -]`. Two loops over the production code alone:

- `engine`: the planner's `Fleet`, asked in the order of the queue (priority, then age; what did not fit once is not
  tried again until something has ended). Jobs end at random in batches, as a planner's cycle finds them, and as many as
  fit take their places. Everything counts: giving back, refusals, placements, choosing who comes next.
- `cycle`: `plan(snapshot, now, memory)` as a leader calls it, on a snapshot made anew for each call: first on an empty
  fleet, then after a batch of endings. All of a cycle counts: what has changed, the order, reasons, decisions.
"""

import argparse
import gc
import json
import os
import platform
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final

from services.scheduler.planner import Memory, Placement, plan
from services.scheduler.planner.fleet import Ask, Fleet, Spot, Want
from services.scheduler.snapshot import (
    Assignment,
    Demand,
    Device,
    Group,
    Kind,
    Node,
    Ran,
    Snapshot,
    Topology,
    Workload,
)

POOL: Final = "pools/bench"
RACK: Final = "rack"
RACK_NODES: Final = 32
DEVICES: Final = 8
PRIORITIES: Final = 5
# Devices of a job and how often it comes: mostly small, some of many nodes, as in the Philly trace.
SIZES: Final = ((1, 0.55), (2, 0.12), (4, 0.12), (8, 0.13), (16, 0.04), (32, 0.025), (64, 0.01), (128, 0.005))
_GIB: Final = 1 << 30

_Rank = tuple[int, int, str]


def fleet_nodes(count: int) -> dict[str, Node]:
    """Nodes of eight devices in racks."""
    return {
        name: Node(
            name=name,
            pool=POOL,
            session=name,
            cpu_milli=128_000,
            memory_bytes=1024 * _GIB,
            devices=tuple(Device(index=index, model="H100") for index in range(DEVICES)),
            labels={RACK: f"r{at // RACK_NODES:04d}"},
        )
        for at in range(count)
        for name in (f"{POOL}/nodes/n{at:05d}",)
    }


def queue(count: int, seed: int, topology: Topology | None) -> list[Workload]:
    """Jobs that wait, in the order of their submission; those of several nodes are gangs."""
    random = Random(seed)
    sizes = random.choices([size for size, _ in SIZES], [weight for _, weight in SIZES], k=count)
    groups = {size: _group(size) for size, _ in SIZES}
    return [
        Workload(
            name=f"projects/p{random.randrange(20)}/workloads/w{at:06d}",
            kind=Kind.TRAINING,
            groups=(groups[size],),
            pools=(POOL,),
            priority=random.randrange(PRIORITIES),
            is_preemptible=False,
            submitted=at + 1,
            topology=topology if size > DEVICES else None,
        )
        for at, size in enumerate(sizes)
    ]


def _group(size: int) -> Group:
    devices, slices = min(size, DEVICES), max(1, size // DEVICES)
    demand = Demand(cpu_milli=12_000 * devices, memory_bytes=96 * _GIB * devices, device_milli=1000 * devices)
    return Group(name="worker", min_count=slices, max_count=slices, demand=demand, program=b"1")


class Engine:
    """The fleet and those that wait for it."""

    def __init__(self, nodes: Mapping[str, Node], waiting: Sequence[Workload]) -> None:
        self.fleet = Fleet(nodes)
        self.running: list[tuple[Demand, tuple[Spot, ...]]] = []
        self.placed = self.slices = self.refusals = 0
        self._lines: list[tuple[Ask, deque[_Rank]]] = []  # by kind, in the order of the queue
        kinds: dict[tuple[object, ...], deque[_Rank]] = {}
        for each in sorted(waiting, key=_rank):
            kind = (each.priority, each.groups, each.topology)
            if kind not in kinds:
                kinds[kind] = deque()
                self._lines.append((_ask(each), kinds[kind]))
            kinds[kind].append(_rank(each))
            self.fleet.expect(each.groups[0].demand, each.groups[0].min_count)

    def fill(self) -> None:
        """Places for all that fit, in the order of the queue; a job that does not fit is passed by those that do."""
        heap = [(line[0], at) for at, (_, line) in enumerate(self._lines) if line]
        heapify(heap)
        place, running, lines = self.fleet.place, self.running, self._lines
        while heap:
            _, at = heappop(heap)
            ask, line = lines[at]
            spots = place(ask)
            if spots is None:
                self.refusals += 1  # nor will others of its kind, since room only shrinks
                continue
            line.popleft()
            running.append((ask.wants[0].group.demand, spots))
            self.placed += 1
            self.slices += len(spots)
            if line:
                heappush(heap, (line[0], at))
        self.fleet.settle()

    def end(self, random: Random, number: int) -> None:
        """So many jobs end, whichever."""
        running, free = self.running, self.fleet.free
        for _ in range(min(number, len(running))):
            at = int(random.random() * len(running))
            running[at], running[-1] = running[-1], running[at]
            demand, spots = running.pop()
            for spot in spots:
                free(spot.node, demand, spot.devices)

    def waiting(self) -> int:
        """How many have no place yet."""
        return sum(len(line) for _, line in self._lines)


def _rank(workload: Workload) -> _Rank:
    return -workload.priority, workload.submitted, workload.name


def _ask(workload: Workload) -> Ask:
    wants = tuple(Want(group=each, least=each.min_count, most=each.max_count) for each in workload.groups)
    return Ask(pool=POOL, wants=wants, topology=workload.topology)


def engine(nodes: int, queued: int, topology: Topology | None, *, batch: int, seed: int = 42) -> dict[str, Any]:
    """Fill an empty fleet, then keep it full while jobs end, until half of the rest of the queue has its place."""
    random = Random(seed)
    loop = Engine(fleet_nodes(nodes), queue(queued, seed, topology))
    gc.collect()
    gc.freeze()  # as the chassis does once a service has started
    began, cpu = perf_counter(), process_time()
    loop.fill()
    filled, filled_cpu, first = perf_counter() - began, process_time() - cpu, loop.placed
    loop.slices = loop.refusals = 0
    enough = loop.waiting() // 2
    began, cpu = perf_counter(), process_time()
    while loop.waiting() > enough and loop.running:
        loop.end(random, batch)
        loop.fill()
    seconds, used, placed = perf_counter() - began, process_time() - cpu, loop.placed - first
    gc.unfreeze()
    in_use = sum(len(spot.devices) for _, spots in loop.running for spot in spots)
    return {
        "nodes": nodes,
        "queued": queued,
        "batch": batch,
        "fill_placements_per_s": round(first / filled),
        "fill_placements_per_cpu_s": round(first / filled_cpu),
        "placements_per_s": round(placed / seconds),
        "placements_per_cpu_s": round(placed / used),
        "slices_per_s": round(loop.slices / seconds),
        "placed": placed,
        "refusals": loop.refusals,
        "device_use_pct": round(100 * in_use / (nodes * DEVICES), 2),
    }


def cycle(
    nodes: int, queued: int, topology: Topology | None, *, batch: int, rounds: int = 5, seed: int = 42
) -> dict[str, Any]:
    """The whole planner on snapshots: a first cycle on an empty fleet, then rounds after each of which jobs end."""
    random = Random(seed)
    workloads = {each.name: each for each in queue(queued, seed, topology)}
    assignments: dict[str, tuple[Assignment, ...]] = {}
    by_name, memory = fleet_nodes(nodes), Memory()
    figures: list[tuple[int, float, float]] = []
    for number in range(rounds + 1):
        if number:
            for name in random.sample(sorted(assignments), min(batch, len(assignments))):
                del assignments[name], workloads[name]
        snapshot = Snapshot(
            pools=frozenset({POOL}), nodes=by_name, workloads=dict(workloads), assignments=dict(assignments)
        )
        began, cpu = perf_counter(), process_time()
        planned = plan(snapshot, float(number), memory)
        seconds, used = perf_counter() - began, process_time() - cpu
        placed = 0
        for each in planned.decisions:
            before = workloads[each.workload]
            workloads[before.name] = after = replace(
                before,
                state=each.state,
                reason=each.reason,
                message=each.message,
                generation=each.generation,
                slices=each.slices,
                granted=each.granted,
                quota_reserved_at=float(number) if each.has_quota else None,
            )
            if each.placement is not None:
                placed += 1
                workloads[before.name] = replace(after, assigned_at=float(number))
                assignments[before.name] = (_assignment(after, each.placement),)
        figures.append((placed, seconds, used))
    placed, first_s, first_cpu_s = figures[0]
    return {
        "nodes": nodes,
        "queued": queued,
        "batch": batch,
        "first_cycle_s": round(first_s, 3),
        "first_cycle_placements_per_s": round(placed / first_s),
        "first_cycle_placements_per_cpu_s": round(placed / first_cpu_s),
        "steady_cycle_s": round(median(seconds for _, seconds, _ in figures[1:]), 3),
        "steady_cycle_cpu_s": round(median(used for *_, used in figures[1:]), 3),
        "steady_placements_per_s": round(median(placed / seconds for placed, seconds, _ in figures[1:])),
        "steady_placements_per_cpu_s": round(median(placed / used for placed, _, used in figures[1:])),
    }


def _assignment(workload: Workload, placement: Placement) -> Assignment:
    """What the leader would have written."""
    return Assignment(
        workload=workload.name,
        generation=workload.generation,
        pool=placement.pool,
        slices=placement.slices,
        sessions=dict(placement.sessions),
        groups={each.name: Ran(demand=each.demand, program=each.program) for each in workload.groups},
    )


def measure(nodes: int = 10_000, queued: int = 100_000) -> dict[str, Any]:
    """All figures: at the full size, and how they grow towards it."""
    topologies = {
        "whole": None,
        "rack_required": Topology(level=RACK),
        "rack_preferred": Topology(level=RACK, is_required=False),
    }
    batch = max(1, queued // 100)
    sizes = sorted({max(RACK_NODES, nodes // 100), max(RACK_NODES, nodes // 10), nodes})
    return {
        "machine": _machine(),
        "engine": {name: engine(nodes, queued, each, batch=batch) for name, each in topologies.items()},
        "engine_small_batches": engine(nodes, queued, None, batch=max(1, batch // 10)),
        "growth": {
            name: [engine(size, queued * size // nodes, each, batch=max(1, batch * size // nodes)) for size in sizes]
            for name, each in (("whole", None), ("rack_required", Topology(level=RACK)))
        },
        "cycle": {name: cycle(nodes, queued, each, batch=batch) for name, each in topologies.items()},
    }


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--json", default="-", help="where the figures go; - is standard output")
    given = parser.parse_args(argv)
    text = json.dumps(measure(given.nodes, given.queued), indent=2) + "\n"
    if given.json == "-":
        sys.stdout.write(text)
    else:
        Path(given.json).write_text(text)


if __name__ == "__main__":
    main()
