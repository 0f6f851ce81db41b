"""How full a cluster becomes: tasks of the openb trace placed one by one with the planner's own engine.

`python -m bench.placement --nodes NODES.csv --arrivals ARRIVALS.csv --assignments OUT.csv --json -` places a list;
`--generate --pods PODS.csv --nodes NODES.csv --seed 42 --ratio 1.3 --out ARRIVALS.csv` draws one;
`--pods PODS.csv --nodes NODES.csv --seeds 42..51 --json -` draws and places one for each seed, and prints the mean.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

from bench import openb
from services.scheduler.planner.fleet import Ask, Fleet, Spot, Want
from services.scheduler.snapshot import Group, Node


def place(nodes: Mapping[str, Node], tasks: Iterable[openb.Task]) -> tuple[list[Spot | None], float, float]:
    """A place for each task in turn, knowing nothing of those that follow; the seconds it took, by clock and of CPU."""
    demands = [task.demand() for task in tasks]
    spots: list[Spot | None] = []
    began, cpu = perf_counter(), process_time()
    fleet = Fleet(nodes)
    for demand in demands:
        fleet.expect(demand)
        want = Want(group=Group(name="", min_count=1, max_count=1, demand=demand, program=b""), least=1, most=1)
        found = fleet.place(Ask(pool=openb.POOL, wants=(want,)))
        fleet.settle()
        spots.append(found[0] if found else None)
    return spots, perf_counter() - began, process_time() - cpu


def report(
    nodes: Mapping[str, Node],
    tasks: Sequence[openb.Task],
    spots: Sequence[Spot | None],
    seconds: float,
    cpu_seconds: float,
) -> dict[str, Any]:
    """The figures of one list."""
    capacity = capacity_milli(nodes)
    placed = [task for task, spot in zip(tasks, spots, strict=True) if spot is not None]
    allocated = sum(task.total_milli for task in placed)
    return {
        "gpu_allocation_pct": round(100 * allocated / capacity, 3) if capacity else 0.0,
        "decisions_per_s": round(len(tasks) / seconds, 1),
        "decisions_per_cpu_s": round(len(tasks) / cpu_seconds, 1),
        "placed": len(placed),
        "unplaced": len(tasks) - len(placed),
        "tasks": len(tasks),
        "asked_pct": round(100 * sum(task.total_milli for task in tasks) / capacity, 3) if capacity else 0.0,
        "allocated_gpu_milli": allocated,
        "total_gpu_milli": capacity,
        "seconds": round(seconds, 3),
    }


def capacity_milli(nodes: Mapping[str, Node]) -> int:
    """Thousandths of devices in all."""
    return 1000 * sum(len(node.devices) for node in nodes.values())


def write_assignments(path: Path, spots: Sequence[Spot | None]) -> None:
    """Where every task went that has a place: its position in the list, from 0, the node and the devices."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("task", "node", "devices"))
        for index, spot in enumerate(spots):
            if spot is not None:
                writer.writerow((index, spot.node, "|".join(map(str, spot.devices))))


def _seeds(text: str) -> list[int]:
    first, dots, last = text.partition("..")
    return list(range(int(first), int(last) + 1)) if dots else [int(first)]


def _all_seeds(nodes: Mapping[str, Node], pods: Sequence[openb.Task], seeds: str, ratio: float) -> dict[str, Any]:
    reports = []
    for seed in _seeds(seeds):
        tasks = list(openb.arrivals(pods, capacity_milli(nodes), seed, ratio))
        reports.append({"seed": seed, **report(nodes, tasks, *place(nodes, tasks))})
    return {
        "gpu_allocation_pct": round(fmean(each["gpu_allocation_pct"] for each in reports), 3),
        "decisions_per_s": round(fmean(each["decisions_per_s"] for each in reports), 1),
        "decisions_per_cpu_s": round(fmean(each["decisions_per_cpu_s"] for each in reports), 1),
        "placed": round(fmean(each["placed"] for each in reports), 1),
        "seeds": reports,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Draw a list, or place one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=Path, required=True)
    parser.add_argument("--arrivals", type=Path)
    parser.add_argument("--assignments", type=Path)
    parser.add_argument("--json", default="-", help="where the figures go; - is standard output")
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("--pods", type=Path)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--seeds")
    parser.add_argument("--ratio", type=float, default=1.3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    nodes = openb.nodes(given.nodes)
    if given.generate:
        if not given.pods or not given.out:
            parser.error("--generate needs --pods and --out")
        pods = openb.tasks(given.pods)
        openb.write(given.out, openb.arrivals(pods, capacity_milli(nodes), given.seed, given.ratio))
        return
    if given.seeds:
        if not given.pods:
            parser.error("--seeds needs --pods")
        figures = _all_seeds(nodes, openb.tasks(given.pods), given.seeds, given.ratio)
    else:
        if not given.arrivals:
            parser.error("--arrivals, --seeds or --generate is needed")
        tasks = openb.tasks(given.arrivals)
        spots, seconds, cpu_seconds = place(nodes, tasks)
        if given.assignments:
            write_assignments(given.assignments, spots)
        figures = report(nodes, tasks, spots, seconds, cpu_seconds)
    text = json.dumps(figures, indent=2) + "\n"
    if given.json == "-":
        sys.stdout.write(text)
    else:
        Path(given.json).write_text(text)


if __name__ == "__main__":
    main()
