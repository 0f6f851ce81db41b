"""Row 9: many jobs that do nothing, to all done: a real process each, its exit status durable; ours beside others'."""

import asyncio
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from bench import noop_slurm
from bench.fleet import Fleet, array_job, batches, load_average, process_job, real_agent
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import keys

Workload = workload_pb2.Workload
TOGETHER: Final = 64  # so many of our jobs and of Slurm's may run at once
_PEERS: Final = ("ray", "dask")
_PEER: Final = str(Path(__file__).parent / "peers" / "noop.py")
_PER_JOB_S: Final = 0.5  # slower than that is broken
_IDLE_S: Final = 0.1  # of CPU in a second


async def measure(
    fleet: Fleet, processes: int, rounds: int, peers_python: str, *, has_single: bool = True
) -> dict[str, Any]:
    """Ours and the machine's own limit, in turns; then by size; then the others."""
    ours: list[float] = []
    arrays: list[float] = []
    array_cpu: dict[str, float] = {}
    array_by_size: dict[int, float] = {}
    limit: list[float] = []
    parallel: list[float] = []
    cpu: dict[str, float] = {}
    by_size: dict[int, float] = {}
    async with real_agent(fleet, cpu_milli=TOGETHER) as pid:
        await _settled(pid)
        await _ours(fleet, 64, "warm-")
        await _array(fleet, 64, "warm-array")
        for number in range(rounds):
            before = {**fleet.cpu(), "agent": _cpu(pid)}
            arrays.append(await _array(fleet, processes, f"a{number}"))
            after = {**fleet.cpu(), "agent": _cpu(pid)}
            array_cpu = {name: round(1e6 * (after[name] - before[name]) / processes, 1) for name in after}
            await fleet.forget()
            limit.append(_spawns(processes, 1))
            parallel.append(_spawns(processes, 8))
            if not has_single:
                continue
            before = {**fleet.cpu(), "agent": _cpu(pid)}
            ours.append(await _ours(fleet, processes, f"r{number}-"))
            after = {**fleet.cpu(), "agent": _cpu(pid)}
            cpu = {name: round(1e6 * (after[name] - before[name]) / processes, 1) for name in after}
            await fleet.forget()
        for size in (processes // 4, processes, processes * 4):
            array_by_size[size] = round(size / await _array(fleet, size, f"b{size}"))
            await fleet.forget()
            if has_single:
                by_size[size] = round(size / await _ours(fleet, size, f"s{size}-"))
                await fleet.forget()
    spawned, ran = _rounds(processes, limit), _rounds(processes, arrays)
    figures: dict[str, Any] = {
        "processes": processes,
        "lepton_tasks_of_one_array_per_s": ran,
        "tasks_by_size": array_by_size,
        "cpu_us_per_task": array_cpu,
        "lepton_jobs_per_s": _rounds(processes, ours) if ours else "not measured",
        "by_size": by_size,
        "cpu_us_per_job": cpu,
        "posix_spawn_per_s": spawned,
        "posix_spawn_8_at_once_per_s": _rounds(processes, parallel),
        "to_posix_spawn": round(ran["median"] / spawned["median"], 3),
        "load_average": load_average(),
    }
    with tempfile.TemporaryDirectory(prefix="lepton-slurm-") as folder:
        figures["slurm"] = await noop_slurm.measure(Path(folder), processes, TOGETHER)
    if "jobs_per_s" in figures["slurm"]:
        figures["to_slurm"] = round(ran["median"] / figures["slurm"]["jobs_per_s"], 1)
    for peer in _PEERS:
        figures[peer] = await _peer(peers_python, peer, processes)
    figures["load_average_at_the_end"] = load_average()
    return figures


async def _ours(fleet: Fleet, processes: int, prefix: str) -> float:
    """Seconds from the first submission until every job's success is in etcd."""
    standing = asyncio.Event()
    requests = batches(processes, 1000, process_job(("true",)), prefix)

    async def listen() -> None:
        done = 0
        watching = fleet.kv.watch(keys.WORKLOADS)
        standing.set()
        async for batch in watching:
            for event in batch.events:
                if event.entry is not None and event.key.rpartition("/")[2].startswith(prefix):
                    state = Workload.FromString(event.entry.value).state
                    if state in (Workload.FAILED, Workload.CANCELLED):
                        raise SystemExit(f"a job has failed: {Workload.FromString(event.entry.value)}")
                    done += state == Workload.SUCCEEDED
            if done >= processes:
                return

    listening = asyncio.create_task(listen())
    await standing.wait()
    await asyncio.sleep(0.3)  # the watch stands
    began = time.monotonic()
    for request in requests:
        await fleet.submit(request)
    await asyncio.wait_for(listening, 30 + _PER_JOB_S * processes)
    return time.monotonic() - began


async def _array(fleet: Fleet, tasks: int, name: str) -> float:
    """Seconds from the submission of an array until the success of every task of it is in etcd."""
    standing = asyncio.Event()
    (request,) = batches(1, 1, array_job(tasks), name)

    async def listen() -> None:
        watching = fleet.kv.watch(keys.WORKLOADS)
        standing.set()
        async for batch in watching:
            for event in batch.events:
                if event.entry is not None and event.key.rpartition("/")[2].startswith(name):
                    found = Workload.FromString(event.entry.value)
                    if found.state in (Workload.FAILED, Workload.CANCELLED):
                        raise SystemExit(f"the array has failed: {found}")
                    if found.state == Workload.SUCCEEDED:
                        assert found.array.succeeded == tasks
                        return

    listening = asyncio.create_task(listen())
    await standing.wait()
    await asyncio.sleep(0.3)  # the watch stands
    began = time.monotonic()
    await fleet.submit(request)
    await asyncio.wait_for(listening, 30 + _PER_JOB_S * tasks)
    return time.monotonic() - began


async def _peer(python: str, peer: str, processes: int) -> dict[str, Any]:
    if shutil.which(python) is None:
        return {"skipped": f"there is no {python}: python -m venv PEERS && PEERS/bin/pip install ray distributed"}
    cores = str(os.cpu_count() or 1)
    child = await asyncio.create_subprocess_exec(
        *(python, _PEER, peer, str(processes), cores), stdout=-1, stderr=-1, cwd="/"
    )
    try:
        said, complaint = await asyncio.wait_for(child.communicate(), 60 + _PER_JOB_S * processes)
    except TimeoutError:
        child.kill()
        await child.wait()
        return {"skipped": "it did not end in time"}
    if child.returncode:
        return {"skipped": (complaint.decode().strip().splitlines() or ["it failed"])[-1]}
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in found.items()}


def _spawns(processes: int, together: int) -> float:
    """Seconds for so many posix_spawn of the same program, so many at once."""
    program = shutil.which("true") or "/bin/true"
    began = time.monotonic()
    live = started = 0
    while started < processes or live:
        while live < together and started < processes:
            os.posix_spawn(program, ["true"], {"PATH": "/usr/bin:/bin"})
            live, started = live + 1, started + 1
        os.wait()
        live -= 1
    return time.monotonic() - began


def _rounds(processes: int, seconds: list[float]) -> dict[str, float]:
    return {"median": round(processes / median(seconds)), "best": round(processes / min(seconds))}


async def _settled(pid: int) -> None:
    """Wait until an agent and its launcher, which loads torch, have nothing more to do of their own."""
    for _ in range(60):
        before = _cpu(pid)
        await asyncio.sleep(1.0)
        if _cpu(pid) - before < _IDLE_S:
            return


def _cpu(pid: int) -> float:
    """Seconds that a process and all that it has started have used."""
    own = psutil.Process(pid)
    total = 0.0
    for each in (own, *own.children(recursive=True)):
        times = each.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total
