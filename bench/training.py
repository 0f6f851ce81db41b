"""Training's speed: throughput, start, recovery and checkpoint stall against torchrun and torch, in the same run.

`python -m bench.training [--parts throughput,start,recovery,checkpoint,gpu,ray] [--rounds N] [--json FILE]`
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from bench import checkpoint
from bench.fleet import load_average
from bench.training_parts import Parts, ray_gang
from bench.training_runs import Lepton
from tests.harness.training_stack import TrainingStack

_PARTS: Final = "throughput,start,recovery,checkpoint,gpu,ray"
_GOALS: Final = {"throughput": 0.99, "start": 20.0, "recovery": 10.0, "checkpoint": 10.0, "gpu": 0.98}
"""At least so many times torchrun's; a stall so many times shorter than that of dcp.async_save."""
_STATE_MIB: Final = 400  # of each rank's state, in the checkpoint part


async def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parts that were asked for."""
    figures: dict[str, Any] = {
        "bench": "training",
        "cores": os.cpu_count(),
        "goals": _GOALS,
        "load_average": load_average(),
    }
    gpus, figures["torch"] = await asyncio.to_thread(_torch)
    parts = {each.strip() for each in arguments.parts.split(",")}
    sizes = [int(each) for each in arguments.ranks.split(",")]
    if parts & {"throughput", "start", "recovery", "gpu"}:
        with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder:
            figures |= await _on_a_mesh(Path(folder), parts, sizes, gpus, arguments)
    if "ray" in parts:
        figures["ray_gang_of_two"] = await ray_gang(arguments.peers_python, arguments.rounds)
    if "checkpoint" in parts:
        figures["checkpoint"] = await asyncio.to_thread(_checkpoint, arguments.rounds)
    figures["load_average_at_the_end"] = load_average()
    return figures


async def _on_a_mesh(
    folder: Path, parts: set[str], sizes: list[int], gpus: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    rounds = arguments.rounds
    async with TrainingStack(folder / "home") as stack:
        await stack.join("n1", devices=0 if gpus else max(sizes))
        async with stack.client() as client:
            measure = Parts(stack, Lepton(client), folder)
            if "start" in parts:
                figures["start"] = await measure.start(2, rounds)
            if "recovery" in parts:
                figures["recovery"] = await measure.recovery(2, rounds)
            if "throughput" in parts:
                figures["throughput"] = [
                    await measure.throughput(ranks, rounds, arguments.steps, arguments.checkpoint_every)
                    for ranks in sizes
                ]
            if "gpu" in parts:
                figures["gpu"] = await measure.gpu(gpus, rounds, arguments.steps)
                if "not run" in figures["gpu"]:
                    print("gpu: not run: no GPU", file=sys.stderr)
    return figures


def _torch() -> tuple[int, str]:
    """How many GPUs torch sees, and its version; asked in a process of its own, which lets go of them."""
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.__version__)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    devices, version = said.split()
    return int(devices), version


def _checkpoint(rounds: int) -> dict[str, Any]:
    """The stall of a checkpoint, by its own benchmark."""
    with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder:
        figures: dict[str, Any] = checkpoint.report(checkpoint.measured(_STATE_MIB, rounds, Path(folder)))
    return figures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=_PARTS)
    parser.add_argument("--ranks", default="2,4", help="of the throughput")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600, help="of a run of the throughput")
    parser.add_argument("--checkpoint-every", type=int, default=200, help="steps")
    parser.add_argument("--peers-python", default="/opt/lepton-peers/bin/python", help="one with ray")
    parser.add_argument("--json", default="-", help="where the figures go; - = standard output")
    return parser.parse_args()


if __name__ == "__main__":
    wanted = _arguments()
    text = json.dumps(asyncio.run(main(wanted)), indent=2)
    print(text) if wanted.json == "-" else Path(wanted.json).write_text(text + "\n")
