"""Microsoft's Philly trace on a simulated cluster, under several queueing disciplines of the production planner.

`python -m bench.philly [--jobs FILE] [--limit N] [--policies fifo,sjf,fair,default] [--nodes N] [--devices D]` prints
a table to stderr and JSON to stdout. Without a file, and without `philly/philly.csv` under `LEPTON_TEST_DATA`, jobs in
the shape of the trace are made up from `--seed`.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

from services.scheduler.planner import Plan
from services.scheduler.simulator import Costs, Simulation, World, fleet, philly, table, yardstick
from services.scheduler.simulator.discipline import DISCIPLINES
from services.scheduler.simulator.simulation import remembering
from services.scheduler.snapshot import Snapshot

YARDSTICKS: Final[Mapping[str, yardstick.Order]] = {
    "SRTF oracle": yardstick.srtf,
    "SRSF oracle": yardstick.srsf,
    "LAS (ideal)": yardstick.las,
}
COLUMNS: Final = {
    "policy": "policy",
    "mean_jct_s": "mean JCT s",
    "p50_jct_s": "p50",
    "p99_jct_s": "p99",
    "mean_queueing_s": "mean queueing s",
    "p99_queueing_s": "p99",
    "mean_slowdown": "slowdown",
    "makespan_s": "makespan s",
    "utilisation_pct": "use %",
    "contended_utilisation_pct": "use % contended",
    "fragmentation_pct": "stranded %",
    "fairness_jain": "Jain",
    "deprived_pct": "deprived %",
    "preemptions": "preemptions",
    "lost_work_pct": "lost work %",
    "vs_fifo": "x fifo",
    "vs_oracle": "x oracle",
    "wall_s": "wall s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all runs have in common."""

    rows: tuple[philly.Row, ...]
    nodes: int
    devices: int
    interval_s: float


class TimedPlanner:
    """The production planner, and the CPU time that it took."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.longest_s = 0.0
        self._plan = remembering()

    def __call__(self, snapshot: Snapshot, now: float) -> Plan:
        """Plan."""
        started = process_time()
        planned = self._plan(snapshot, now)
        took_s = process_time() - started
        self.cpu_s += took_s
        self.longest_s = max(self.longest_s, took_s)
        return planned


def simulate(name: str, setting: Setting) -> dict[str, Any]:
    """One discipline's figures."""
    started, cpu = perf_counter(), process_time()
    discipline = DISCIPLINES[name]
    jobs = tuple(philly.jobs(setting.rows, per_node=setting.devices, knows_duration=discipline.knows_duration))
    queues = discipline.queues((job.project for job in jobs), setting.nodes * setting.devices)
    world = World(pools=(philly.POOL,), queues=queues)
    nodes = fleet.nodes(setting.nodes, setting.devices, pool=philly.POOL)
    planner = TimedPlanner()
    simulation = Simulation(world, jobs, nodes, costs=Costs(), interval_s=setting.interval_s, planner=planner)
    simulation.run()
    return simulation.report(name).document() | {
        "about": discipline.about,
        "wall_s": round(perf_counter() - started, 1),
        "cpu_s": round(process_time() - cpu, 1),
        "plan_cpu_s": round(planner.cpu_s, 1),
        "plan_mean_ms": round(1000 * planner.cpu_s / max(1, simulation.cycles), 3),
        "plan_longest_ms": round(1000 * planner.longest_s, 1),
    }


def limit(name: str, setting: Setting) -> dict[str, Any]:
    """What a yardstick reaches on as many devices, without nodes, costs or a planner."""
    started = perf_counter()
    jobs = philly.jobs(setting.rows, per_node=setting.devices, knows_duration=True)
    found = yardstick.measure(name, YARDSTICKS[name], jobs, setting.nodes * setting.devices)
    return asdict(found) | {"wall_s": round(perf_counter() - started, 1)}


def run(name: str, setting: Setting) -> dict[str, Any]:
    """One line of the table."""
    return limit(name, setting) if name in YARDSTICKS else simulate(name, setting)


def compare(setting: Setting, names: Sequence[str], processes: int) -> list[dict[str, Any]]:
    """All lines, each run in a process of its own."""
    if processes <= 1:
        lines = [run(name, setting) for name in names]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            lines = list(pool.map(partial(run, setting=setting), names))
    fifo = next((line["mean_jct_s"] for line in lines if line["policy"] == "fifo"), None)
    oracles = [line["mean_jct_s"] for line in lines if line["policy"] in YARDSTICKS]
    for line in lines:
        line["vs_fifo"] = round(fifo / line["mean_jct_s"], 3) if fifo else None
        line["vs_oracle"] = round(line["mean_jct_s"] / min(oracles), 3) if oracles else None
    return lines


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.philly", description=__doc__)
    parser.add_argument("--jobs", type=Path, help="the trace: timestamp,duration,num_gpus,gpu_time,cluster")
    parser.add_argument("--limit", type=int, help="only so many jobs")
    parser.add_argument("--seed", type=int, default=1, help="of the jobs that are made up where there is no file")
    parser.add_argument("--policies", default="fifo,sjf,fair,default", help=f"of {', '.join(DISCIPLINES)}")
    parser.add_argument("--no-yardsticks", action="store_true", help="leave out the oracle and LAS")
    parser.add_argument("--nodes", type=int, help="nodes; by default as many as make the load")
    parser.add_argument("--devices", type=int, default=8, help="devices of a node")
    parser.add_argument("--load", type=float, default=0.6, help="work over capacity while jobs are submitted")
    parser.add_argument("--interval", type=float, default=60.0, help="least simulated seconds between two plans")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--json", default="-", help="where the JSON goes; - = stdout")
    chosen = parser.parse_args(given)
    if unknown := set(chosen.policies.split(",")) - set(DISCIPLINES):
        parser.error(f"unknown policies: {', '.join(sorted(unknown))}")
    return chosen


def load_rows(chosen: argparse.Namespace) -> tuple[str, tuple[philly.Row, ...]]:
    """The jobs and where they are from."""
    data = os.environ.get("LEPTON_TEST_DATA")
    path = chosen.jobs or (Path(data) / "philly" / "philly.csv" if data else None)
    if path is not None and (chosen.jobs or path.exists()):
        return path.name, philly.read(path, chosen.limit)
    count = chosen.limit or 5000
    return f"made up, seed {chosen.seed}", philly.generate(count, chosen.seed, span_s=count * 114.4)


def main(given: Sequence[str] | None = None) -> None:
    """Compare, and print."""
    chosen = arguments(given)
    source, rows = load_rows(chosen)
    jobs = tuple(philly.jobs(rows, per_node=chosen.devices, knows_duration=False))
    nodes = chosen.nodes or fleet.count_for(jobs, chosen.devices, chosen.load)
    setting = Setting(rows=rows, nodes=nodes, devices=chosen.devices, interval_s=chosen.interval)
    names = [*chosen.policies.split(","), *(() if chosen.no_yardsticks else YARDSTICKS)]
    started = perf_counter()
    lines = compare(setting, names, chosen.processes)
    document = {
        "bench": "philly",
        "source": source,
        "jobs": len(rows),
        "nodes": nodes,
        "devices": nodes * chosen.devices,
        "interval_s": chosen.interval,
        "wall_s": round(perf_counter() - started, 1),
        "policies": {line["policy"]: line for line in lines},
        "python": sys.version.split()[0],
    }
    print(f"{len(rows):,} jobs ({source}), {nodes} nodes x {chosen.devices} devices", file=sys.stderr)
    print(table(lines, COLUMNS), file=sys.stderr)
    text = json.dumps(document, indent=2)
    if chosen.json == "-":
        print(text)
    else:
        Path(chosen.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
