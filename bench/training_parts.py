"""The parts of the training benchmark: throughput, start, recovery, and the GPU's share; ours and torchrun in turns."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from bench.training_runs import (
    Lepton,
    Torchrun,
    cpu_per_step,
    cpu_to_first_step,
    first_step,
    marks,
    spread,
    steps_per_s,
    until_all,
    until_step,
)
from tests.harness.training_stack import TrainingStack

_WARM_UP: Final = 10
_PEAK_FLOPS: Final[Mapping[str, float]] = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16, as NVIDIA states it for the SXM forms."""
_GPT: Final = Path(__file__).parent / "peers" / "gpt.py"
_GANG: Final = Path(__file__).parent / "peers" / "gang.py"


class Parts:
    """Measures on one control plane; `folder` takes the marks."""

    def __init__(self, stack: TrainingStack, lepton: Lepton, folder: Path) -> None:
        self._stack, self._lepton, self._folder = stack, lepton, folder
        self._torchrun = Torchrun(folder)
        self._number = 0

    async def throughput(self, ranks: int, rounds: int, steps: int, checkpoint_every: int) -> dict[str, Any]:
        """Steps per second with reports and checkpoints, against bare torchrun."""
        ours, theirs, our_cpu, their_cpu, plane = [], [], [], [], []
        plain = ("--steps", str(steps), "--batch", "512")
        for _ in range(rounds):
            folder, before = self._marks(), self._plane_cpu()
            _, job = await self._lepton.start(ranks, folder, (*plain, "--checkpoint-every", str(checkpoint_every)))
            await self._lepton.end(job)
            plane.append((self._plane_cpu() - before) / steps)
            ours.append(steps_per_s(folder, warm_up=_WARM_UP))
            our_cpu.append(cpu_per_step(folder, warm_up=_WARM_UP))
            folder = self._marks()
            await (await self._torchrun.start(ranks, folder, plain)).end()
            theirs.append(steps_per_s(folder, warm_up=_WARM_UP))
            their_cpu.append(cpu_per_step(folder, warm_up=_WARM_UP))
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        cpu = [one / other for one, other in zip(their_cpu, our_cpu, strict=True)]
        return {
            "ranks": ranks,
            "steps": steps,
            "checkpoint_every": checkpoint_every,
            "lepton_steps_per_s": spread(ours),
            "torchrun_steps_per_s": spread(theirs),
            "to_torchrun": spread(ratios),
            "to_torchrun_by_cpu_of_the_ranks": spread(cpu),
            "cpu_ms_per_step": {
                "lepton_ranks": round(1e3 * median(our_cpu), 3),
                "torchrun_ranks": round(1e3 * median(their_cpu), 3),
                "control_plane_and_agents": round(1e3 * median(plane), 3),
            },
        }

    async def start(self, ranks: int, rounds: int) -> dict[str, Any]:
        """From submission, through auth, scheduler and etcd, to the first optimizer step of all ranks."""
        ours, theirs, our_cpu, their_cpu = [], [], [], []
        arguments = ("--steps", "3")
        for number in range(rounds + 1):
            folder, before = self._marks(), self._plane_cpu()
            began, job = await self._lepton.start(ranks, folder, arguments)
            await self._lepton.end(job)
            plane = self._plane_cpu() - before
            if number == 0:
                continue  # connections are opened, the code is unpacked for the first time
            ours.append(first_step(folder, ranks, began))
            our_cpu.append(cpu_to_first_step(folder) + plane)
            folder = self._marks()
            run = await self._torchrun.start(ranks, folder, arguments)
            await until_all(folder, ranks, restarts=0)
            launcher = psutil.Process(run.process.pid).cpu_times()
            await run.end()
            theirs.append(first_step(folder, ranks, run.began))
            their_cpu.append(cpu_to_first_step(folder) + launcher.user + launcher.system)
        return {
            "ranks": ranks,
            "lepton_s": spread(ours),
            "torchrun_s": spread(theirs),
            "times_faster": spread([other / one for one, other in zip(ours, theirs, strict=True)]),
            "cpu_s": {"lepton_with_its_control_plane": spread(our_cpu), "torchrun": spread(their_cpu)},
            "times_less_cpu": spread([other / one for one, other in zip(our_cpu, their_cpu, strict=True)]),
        }

    async def recovery(self, ranks: int, rounds: int) -> dict[str, Any]:
        """From SIGKILL of a rank to the next optimizer step of all ranks."""
        ours, theirs = [], []
        arguments = ("--steps", "100000", "--width", "256")
        for _ in range(rounds):
            folder = self._marks()
            _, job = await self._lepton.start(ranks, folder, (*arguments, "--checkpoint-every", "5"), max_restarts=3)
            ours.append(await _kill_one(folder, ranks))
            await self._lepton.cancel(job)
            folder = self._marks()
            run = await self._torchrun.start(ranks, folder, arguments, max_restarts=3)
            try:
                theirs.append(await _kill_one(folder, ranks))
            finally:
                await run.stop()
        return {
            "ranks": ranks,
            "lepton_s": spread(ours),
            "torchrun_s": spread(theirs),
            "times_faster": spread([other / one for one, other in zip(ours, theirs, strict=True)]),
        }

    async def gpu(self, ranks: int, rounds: int, steps: int) -> dict[str, Any]:
        """Tokens per second and utilisation of a small GPT on so many GPUs, against the same loop bare."""
        if not ranks:
            return {"not run": "no GPU"}
        ours, theirs = [], []
        plain = ("--steps", str(steps))
        for _ in range(rounds):
            folder = self._marks()
            saving = (*plain, "--checkpoint-every", str(steps // 4))
            _, job = await self._lepton.start(ranks, folder, saving, script=_GPT)
            await self._lepton.end(job)
            ours.append(steps_per_s(folder, warm_up=_WARM_UP))
            folder = self._marks()
            await (await self._torchrun.start(ranks, folder, plain, script=_GPT)).end()
            theirs.append(steps_per_s(folder, warm_up=_WARM_UP))
        facts = json.loads((folder / "facts.json").read_text())
        peak = next((flops for name, flops in _PEAK_FLOPS.items() if name in facts["device"]), None)
        tokens = median(ours) * facts["tokens_per_rank"]
        return {
            "ranks": ranks,
            "facts": facts,
            "lepton_tokens_per_s": round(tokens * ranks),
            "torchrun_tokens_per_s": round(median(theirs) * facts["tokens_per_rank"] * ranks),
            "model_flops_utilisation": round(tokens * facts["flops_per_token"] / peak, 4) if peak else None,
            "to_torchrun": spread([one / other for one, other in zip(ours, theirs, strict=True)]),
        }

    def _marks(self) -> Path:
        self._number += 1
        return self._folder / "marks" / str(self._number)

    def _plane_cpu(self) -> float:
        """Seconds of CPU of everything but the ranks: etcd, the services, the agents."""
        total = 0.0
        for pid in self._stack.pids():
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
        return total


async def ray_gang(python: str, rounds: int) -> dict[str, Any]:
    """A gang of two actors, without any of torch, on a Ray that is up."""
    if not Path(python).exists():  # noqa: ASYNC240 - nothing else runs
        return {"skipped": f"there is no {python}"}
    child = await asyncio.create_subprocess_exec(python, str(_GANG), str(rounds), stdout=-1, stderr=-1, cwd="/")
    said, complaint = await asyncio.wait_for(child.communicate(), 120)
    if child.returncode:
        return {"skipped": (complaint.decode().strip().splitlines() or ["it failed"])[-1]}
    figures = json.loads(said.decode().strip().splitlines()[-1])
    return {"version": figures["version"], "gang_s": spread(figures["gang_s"])}


async def _kill_one(folder: Path, ranks: int) -> float:
    await until_step(folder, 20)
    victim = next(mark.pid for mark in reversed(marks(folder)) if mark.rank == ranks - 1)
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    await until_all(folder, ranks, restarts=1)
    return first_step(folder, ranks, killed, restarts=1)
