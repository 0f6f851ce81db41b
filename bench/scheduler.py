"""The scheduler's speed: the placement loop, durable jobs by RPC, and no-op jobs to all done, against others.

`python -m bench.scheduler [--rows 7,8,9] [--json -]`. What is compared runs in the same run on the same machine.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from bench import durable_jobs, noop_jobs
from bench.fleet import fleet, load_average


def placement(arguments: argparse.Namespace) -> dict[str, Any]:
    """Row 7: the production planner on values, without a store."""
    try:
        from bench import placement_rate
    except ImportError as error:
        return {"skipped": f"bench.placement_rate is not there: {error}"}
    figures: dict[str, Any] = placement_rate.measure(nodes=arguments.nodes, queued=arguments.queued)
    return figures


async def durable(arguments: argparse.Namespace) -> dict[str, Any]:
    """Row 8."""
    with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder:
        async with fleet(Path(folder)) as running:
            sizes = [arguments.jobs // 10, arguments.jobs // 3, arguments.jobs]
            return await durable_jobs.measure(
                running, sizes, nodes=64, seconds=arguments.seconds, has_single=not arguments.arrays_only
            )


async def noop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Row 9."""
    with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder:
        async with fleet(Path(folder)) as running:
            return await noop_jobs.measure(
                running,
                arguments.processes,
                arguments.rounds,
                arguments.peers_python,
                has_single=not arguments.arrays_only,
            )


async def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """The rows that were asked for."""
    figures: dict[str, Any] = {"bench": "scheduler", "cores": os.cpu_count(), "load_average": load_average()}
    rows = {each.strip() for each in arguments.rows.split(",")}
    if "7" in rows:
        figures["7_placement"] = placement(arguments)
    if "8" in rows:
        figures["8_durable_jobs"] = await durable(arguments)
    if "9" in rows:
        figures["9_noop_jobs"] = await noop(arguments)
    return figures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="7,8,9")
    parser.add_argument("--json", default="-", help="where the figures go; - = standard output")
    parser.add_argument("--nodes", type=int, default=10_000, help="row 7")
    parser.add_argument("--queued", type=int, default=100_000, help="row 7")
    parser.add_argument("--jobs", type=int, default=100_000, help="row 8")
    parser.add_argument("--seconds", type=float, default=10.0, help="row 8: of the latencies")
    parser.add_argument("--processes", type=int, default=1000, help="row 9")
    parser.add_argument("--rounds", type=int, default=3, help="row 9")
    parser.add_argument("--arrays-only", action="store_true", help="rows 8 and 9: not also a workload per job")
    parser.add_argument(
        "--peers-python", default="/opt/lepton-peers/bin/python", help="row 9: one with ray and distributed"
    )
    return parser.parse_args()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "agents":
        uvloop.run(durable_jobs.agents(*sys.argv[2:]))
    else:
        wanted = _arguments()
        text = json.dumps(uvloop.run(main(wanted)), indent=2)
        print(text) if wanted.json == "-" else Path(wanted.json).write_text(text + "\n")
