"""`python -m services.scheduler.simulator TRACE.csv --nodes N`: a trace of one's own under several policies."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from services.scheduler.simulator import Costs, Restless, Simulation, World, fleet, table, trace
from services.scheduler.simulator.discipline import DISCIPLINES

POOL: Final = "pools/simulated"
COLUMNS: Final[Mapping[str, str]] = {
    "policy": "policy",
    "mean_jct_s": "mean JCT s",
    "p50_jct_s": "p50",
    "p99_jct_s": "p99",
    "mean_queueing_s": "mean queueing s",
    "p99_queueing_s": "p99",
    "makespan_s": "makespan s",
    "utilisation_pct": "use %",
    "fragmentation_pct": "stranded %",
    "fairness_jain": "Jain",
    "deprived_pct": "deprived %",
    "preemptions": "preemptions",
    "resizes": "resizes",
    "lost_work_pct": "lost work %",
}


def simulate(name: str, chosen: argparse.Namespace, lines: tuple[trace.Line, ...]) -> dict[str, Any]:
    """One policy's figures."""
    discipline = DISCIPLINES[name]
    jobs = trace.jobs(lines, pool=POOL, knows_duration=discipline.knows_duration)
    world = World(pools=(POOL,), queues=discipline.queues((job.project for job in jobs), chosen.nodes * chosen.devices))
    simulation = Simulation(
        world,
        jobs,
        fleet.nodes(chosen.nodes, chosen.devices, pool=POOL, cpu=chosen.cpu, memory_gib=chosen.memory_gib),
        costs=Costs(restart_s=chosen.restart, checkpoint_every_s=chosen.checkpoint_every),
        interval_s=chosen.interval,
    )
    simulation.run()
    return simulation.report(name).document()


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m services.scheduler.simulator",
        description="Replays a trace of jobs on a simulated fleet, through the planner that runs in production, and "
        "compares queueing policies.",
        epilog="Columns of the trace: "
        + "; ".join(f"{name}: {words}" for name, words in trace.COLUMNS.items())
        + ". Policies: "
        + "; ".join(f"{name}: {each.about}" for name, each in DISCIPLINES.items())
        + ".",
    )
    parser.add_argument("trace", type=Path, help="CSV with a line for each job")
    parser.add_argument("--nodes", type=int, required=True, help="nodes of the fleet")
    parser.add_argument("--devices", type=int, default=8, help="devices of a node")
    parser.add_argument("--cpu", type=int, help="cores of a node; by default 8 for each device")
    parser.add_argument("--memory-gib", type=int, default=1024, help="memory of a node")
    parser.add_argument("--policies", default="fifo,sjf,fair,default", help="which to compare, separated by commas")
    parser.add_argument("--interval", type=float, default=1.0, help="least simulated seconds between two plans")
    parser.add_argument("--restart", type=float, default=30.0, help="seconds to go on from a checkpoint")
    parser.add_argument("--checkpoint-every", type=float, default=3600.0, help="seconds between checkpoints; 0 = none")
    parser.add_argument("--json", help="also write all figures there; - = stdout")
    chosen = parser.parse_args(given)
    if unknown := set(chosen.policies.split(",")) - set(DISCIPLINES):
        parser.error(f"unknown policies: {', '.join(sorted(unknown))}")
    if chosen.nodes < 1:
        parser.error("a fleet has at least one node")
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    """Compare, and print; 1 if the trace cannot be run."""
    chosen = arguments(given)
    try:
        lines = trace.read(chosen.trace)
        found = [simulate(name, chosen, lines) for name in chosen.policies.split(",")]
    except (OSError, trace.BadTrace, Restless) as error:
        print(error, file=sys.stderr)
        return 1
    text = json.dumps({"trace": chosen.trace.name, "nodes": chosen.nodes, "policies": found}, indent=2)
    if chosen.json and chosen.json != "-":
        Path(chosen.json).write_text(text + "\n")
    print(text if chosen.json == "-" else table(found, COLUMNS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
