"""Row 8: jobs submitted by RPC and durably placed, against one transaction per change on the same etcd."""

import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

import grpc.aio

from bench.fleet import (
    POOL,
    PROJECT,
    Fleet,
    array_job,
    batches,
    credentials_of,
    load_average,
    process_job,
    secure,
    simulated_agents,
)
from chassis.kv import DeletePrefix, Put, absent
from lepton.internal.v1 import ledger_pb2
from lepton.internal.v1 import node_session_pb2 as session_pb
from lepton.scheduler.v1 import node_pb2, resources_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from services.scheduler import keys

_OPEN = "/lepton.internal.v1.NodeSessionService/OpenSession"


async def ceilings(fleet: Fleet, seconds: float) -> dict[str, float]:
    """What etcd does by itself: one guarded change per transaction, the same unguarded, and fifty together."""
    value = bytes(300)  # about a job's document

    async def rate(together: int, *, is_guarded: bool) -> float:
        done, until = 0, time.monotonic() + seconds

        async def work(worker: int) -> None:
            nonlocal done
            number = 0
            while time.monotonic() < until:
                names = [f"/ceiling/{together}/{is_guarded}/{worker}/{number + each}" for each in range(together)]
                await fleet.kv.txn([absent(name) for name in names if is_guarded], [Put(name, value) for name in names])
                number += together
                done += together

        began = time.monotonic()
        await asyncio.gather(*[work(worker) for worker in range(64 if together == 1 else 8)])
        spent = time.monotonic() - began
        await fleet.kv.txn([], [DeletePrefix("/ceiling/")])
        return round(done / spent)

    return {
        "one_txn_per_change_per_s": await rate(1, is_guarded=True),
        "raw_puts_per_s": await rate(1, is_guarded=False),
        "puts_in_txns_of_50_per_s": await rate(50, is_guarded=True),
    }


async def throughput(fleet: Fleet, jobs: int, *, per_call: int = 1000, in_flight: int = 4) -> dict[str, Any]:
    """Jobs per second from the first submission to the last placement, all of it in etcd."""
    waiting = iter(batches(jobs, per_call, process_job()))
    before = fleet.cpu()
    began = time.monotonic()

    async def client() -> None:
        for batch in waiting:
            await fleet.submit(batch)

    await asyncio.gather(*[client() for _ in range(in_flight)])
    submitted_s = time.monotonic() - began
    placed_then = await fleet.kv.count(keys.ASSIGNMENTS)
    while (placed := await fleet.kv.count(keys.ASSIGNMENTS)) < jobs:
        if time.monotonic() - began > 30 + jobs / 200:
            raise SystemExit(f"only {placed} of {jobs} jobs were placed")
        await asyncio.sleep(0.05)
    placed_s = time.monotonic() - began
    after = fleet.cpu()
    assert await fleet.kv.count(keys.WORKLOADS) == jobs
    return {
        "jobs": jobs,
        "submitted_per_s": round(jobs / submitted_s),
        "placed_per_s": round(jobs / placed_s),
        "placed_when_all_were_submitted": placed_then,
        "cpu_us_per_job": {name: round(1e6 * (after[name] - before[name]) / jobs, 1) for name in after},
        "load_average": load_average(),
    }


async def arrays(fleet: Fleet, tasks: int, *, per_array: int = 1000, arrays_per_call: int = 25) -> dict[str, Any]:
    """The same as tasks of arrays: each has its own place and resources, and is named in a document in etcd."""
    count = tasks // per_array
    waiting = iter(batches(count, arrays_per_call, array_job(per_array), "a"))
    before = fleet.cpu()
    began = time.monotonic()

    async def client() -> None:
        for batch in waiting:
            await fleet.submit(batch)

    await asyncio.gather(*[client() for _ in range(4)])
    submitted_s = time.monotonic() - began
    while (placed := await _placed_tasks(fleet)) < tasks:
        if time.monotonic() - began > 60 + tasks / 1000:
            raise SystemExit(f"only {placed} of {tasks} tasks were placed")
        await asyncio.sleep(0.02)
    placed_s = time.monotonic() - began
    after = fleet.cpu()
    return {
        "tasks": tasks,
        "per_array": per_array,
        "submitted_per_s": round(tasks / submitted_s),
        "placed_per_s": round(tasks / placed_s),
        "cpu_us_per_task": {name: round(1e6 * (after[name] - before[name]) / tasks, 1) for name in after},
        "load_average": load_average(),
    }


async def _placed_tasks(fleet: Fleet) -> int:
    """How many tasks have a place, as the assignments in etcd name them."""
    entries = (await fleet.kv.list(keys.ASSIGNMENTS)).entries
    documents = [ledger_pb2.Assignment.FromString(entry.value) for entry in entries]
    return sum(sum(node.runs[1::3]) for each in documents for node in each.tasks)


async def latency(fleet: Fleet, per_s: int, seconds: float) -> dict[str, float]:
    """Milliseconds from sending CreateWorkload to the assignment's being in etcd, at a steady rate."""
    sent: dict[str, float] = {}
    took: list[float] = []
    count = int(per_s * seconds)

    async def listen() -> None:
        async for batch in fleet.kv.watch(keys.ASSIGNMENTS):
            now = time.monotonic()
            for event in batch.events:
                at = sent.pop(event.key.split("/")[-2], None)
                if at is not None:
                    took.append(now - at)
            if len(took) >= count:
                return

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.3)  # the watch stands
    began, calls = time.monotonic(), list[asyncio.Task[None]]()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
        name = f"l{number:06}"
        request = pb.CreateWorkloadRequest(parent=f"projects/{PROJECT}", workload_id=name, workload=process_job())
        sent[name] = time.monotonic()
        calls.append(asyncio.create_task(fleet.submit_one(request)))
    await asyncio.gather(*calls)
    await asyncio.wait_for(listening, 60)
    cuts = quantiles(took, n=100)
    return {"per_s": per_s, "p50_ms": round(1e3 * cuts[49], 1), "p99_ms": round(1e3 * cuts[98], 1)}


async def measure(
    fleet: Fleet, sizes: list[int], nodes: int, seconds: float, *, has_single: bool = True
) -> dict[str, Any]:
    """All of row 8; the largest size is the figure, the others show how it grows."""
    sizes = sorted(sizes)
    async with simulated_agents(fleet, nodes, cpu_milli=2 * sizes[-1] // nodes + 1000):
        figures: dict[str, Any] = {"nodes": nodes, "etcd": await ceilings(fleet, seconds / 5)}
        figures["latency"] = await latency(fleet, 100, seconds)
        await fleet.forget()
        figures["arrays"] = []
        for size in sizes:
            for per_array in (100, 1000, 4000):
                if per_array <= size:
                    figures["arrays"].append(await arrays(fleet, size - size % per_array, per_array=per_array))
                    await fleet.forget()
        figures["by_size"] = []
        for size in sizes if has_single else ():
            figures["by_size"].append(await throughput(fleet, size))
            await fleet.forget()
    largest = max(each["tasks"] for each in figures["arrays"])
    best = max(each["placed_per_s"] for each in figures["arrays"] if each["tasks"] == largest)
    figures["tasks_placed_per_s"] = best
    figures["tasks_to_one_txn_per_change"] = round(best / figures["etcd"]["one_txn_per_change_per_s"], 2)
    for each in figures["by_size"][-1:]:
        figures["jobs_placed_per_s"] = each["placed_per_s"]
        figures["jobs_to_one_txn_per_change"] = round(
            each["placed_per_s"] / figures["etcd"]["one_txn_per_change_per_s"], 2
        )
    return figures


async def agents(issued: str, address: str, cpu_milli: str) -> None:
    """The simulated agents: this process's standard output says when all are connected."""
    pems = json.loads(Path(issued).read_text())  # noqa: ASYNC240 - nothing else runs yet
    calls = [await _connect(secure(address, credentials_of(each)), name, int(cpu_milli)) for name, each in pems.items()]
    listening = [asyncio.create_task(_drain(call)) for call in calls]
    print("connected", flush=True)
    sequence = 0
    while not any(task.done() for task in listening):
        sequence += 1
        beat = session_pb.OpenSessionRequest(heartbeat=session_pb.Heartbeat(sequence=sequence)).SerializeToString()
        for call in calls:
            await call.write(beat)
        await asyncio.sleep(1.0)
    print("a session has ended", file=sys.stderr)


async def _connect(channel: grpc.aio.Channel, name: str, cpu_milli: int) -> Any:
    call: Any = channel.stream_stream(_OPEN)()
    capacity = resources_pb2.Resources(cpu_milli=cpu_milli, memory_bytes=1 << 40)
    node = node_pb2.Node(name=f"{POOL}/nodes/{name}", address="127.0.0.1", capacity=capacity)
    await call.write(session_pb.OpenSessionRequest(hello=session_pb.Hello(node=node)).SerializeToString())
    assert session_pb.OpenSessionResponse.FromString(await call.read()).HasField("welcome")
    return call


async def _drain(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
