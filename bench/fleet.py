"""A real scheduler on a real etcd, and whatever connects to it: what the benchmarks of the scheduler run against."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import psutil
import tomli_w

from chassis.credentials import Credentials
from chassis.etcd import EtcdKV
from chassis.identity import Identity
from chassis.kv import DeletePrefix
from lepton.channel import options
from lepton.names import PoolName
from lepton.scheduler.v1 import pool_pb2, program_pb2, resources_pb2, workload_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from services.scheduler import keys
from tests.harness.etcd import EtcdCluster
from tests.harness.pki import Authority
from tests.harness.ports import free_ports
from tests.harness.scheduler_process import SchedulerProcess
from tests.harness.wait import until

PROJECT: Final = "bench"
POOL: Final = "pools/bench"
_BATCH: Final = "/lepton.scheduler.v1.SchedulerService/BatchCreateWorkloads"
_CREATE: Final = "/lepton.scheduler.v1.SchedulerService/CreateWorkload"


@dataclass(eq=False)
class Fleet:
    """One scheduler with its etcd."""

    folder: Path
    etcd: EtcdCluster
    kv: EtcdKV
    authority: Authority
    scheduler: SchedulerProcess
    stack: AsyncExitStack
    channel: grpc.aio.Channel  # of the trainer, without any code of ours in between

    async def submit(self, batch: bytes) -> None:
        """One BatchCreateWorkloads, serialised beforehand; every workload of it must have been created."""
        answer = await _bare(self.channel, _BATCH)(batch, timeout=120)
        failed = [each for each in pb.BatchCreateWorkloadsResponse.FromString(answer).results if each.code]
        if failed:
            raise SystemExit(f"{len(failed)} workloads were not created: {failed[0].message}")

    async def submit_one(self, request: pb.CreateWorkloadRequest) -> None:
        """One CreateWorkload."""
        await _bare(self.channel, _CREATE)(request.SerializeToString(), timeout=30)

    async def forget(self) -> None:
        """Delete all workloads and what belongs to them: as if none had ever been."""
        for prefix in (keys.WORKLOADS, keys.ASSIGNMENTS, keys.STATUSES, keys.REQUESTS):
            await self.kv.txn([], [DeletePrefix(prefix)])

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU that the scheduler and etcd have used."""
        etcd = self.etcd.members[0]._process
        assert etcd is not None
        return {"scheduler": _cpu(self.scheduler.pid), "etcd": _cpu(etcd.pid)}


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    """A scheduler with the settings that it has by default, and an empty pool."""
    authority = Authority()
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(
            EtcdCluster(folder / "etcd", extra=("--quota-backend-bytes=8589934592", "--auto-compaction-retention=1"))
        )
        kv = await stack.enter_async_context(EtcdKV(etcd.endpoints))
        await kv.put(keys.pool(PoolName("bench")), pool_pb2.Pool(name=POOL).SerializeToString())
        process = SchedulerProcess(
            "scheduler", folder, etcd.endpoints, authority, leader={}, telemetry={"log_form": "json"}
        )
        await stack.enter_async_context(process)
        await process.start()
        channel = secure(process.mesh, authority.issue("service/trainer"))
        stack.push_async_callback(channel.close)

        async def leads() -> bool:
            return await kv.get(keys.LEADER) is not None

        await until(leads, 60)
        yield Fleet(folder, etcd, kv, authority, process, stack, channel)


def secure(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """A bare channel to the scheduler's mesh port."""
    extra = options(("grpc.ssl_target_name_override", "scheduler"), ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(address, Identity(credentials).channel_credentials(), extra)


def process_job(argv: Sequence[str] = ("true",), cpu_milli: int = 1) -> workload_pb2.Workload:
    """A job that is one process."""
    group = workload_pb2.SliceGroup(
        name="job",
        min_count=1,
        resources=resources_pb2.Resources(cpu_milli=cpu_milli),
        program=program_pb2.Program(process=program_pb2.ProcessProgram(argv=argv)),
    )
    return workload_pb2.Workload(kind=workload_pb2.Workload.BATCH, groups=[group])


def array_job(
    tasks: int, argv: Sequence[str] = ("true",), cpu_milli: int = 1, at_once: int = 0
) -> workload_pb2.Workload:
    """So many tasks that are one process each, as one array."""
    workload = process_job(argv, cpu_milli)
    workload.array.task_count = tasks
    workload.groups[0].max_count = at_once
    return workload


def batches(count: int, size: int, workload: workload_pb2.Workload, prefix: str = "j") -> list[bytes]:
    """Requests that create so many workloads alike."""
    return [
        pb.BatchCreateWorkloadsRequest(
            parent=f"projects/{PROJECT}",
            requests=[
                pb.CreateWorkloadRequest(workload_id=f"{prefix}{at:07}", workload=workload)
                for at in range(start, min(start + size, count))
            ],
        ).SerializeToString()
        for start in range(0, count, size)
    ]


@asynccontextmanager
async def simulated_agents(fleet: Fleet, count: int, cpu_milli: int) -> AsyncIterator[None]:
    """So many nodes whose agents listen, send heartbeats and run nothing, in a process of their own."""
    names = [f"n{at}" for at in range(count)]
    issued = {name: _pems(fleet.authority.issue(f"agent/{name}")) for name in names}
    (fleet.folder / "agents.json").write_text(json.dumps(issued))
    arguments = (str(fleet.folder / "agents.json"), fleet.scheduler.mesh, str(cpu_milli))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.scheduler", "agents", *arguments), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        if not await child.stdout.readline():
            raise SystemExit("the simulated agents did not connect")
        yield
    finally:
        child.kill()
        await child.wait()


@asynccontextmanager
async def real_agent(fleet: Fleet, cpu_milli: int, log_level: str = "info") -> AsyncIterator[int]:
    """A real node agent; its process id."""
    state = fleet.folder / "agent"
    fleet.authority.issue("agent/real").save(state / "identity")
    config: Mapping[str, Any] = {
        "node": "real",
        "pool": "bench",
        "state_dir": str(state),
        "artifacts": f"file://{fleet.folder}/artifacts",
        "cpu_milli": cpu_milli,
        "memory_bytes": 1 << 33,
        "peers": {"scheduler": fleet.scheduler.mesh, "trainer": f"127.0.0.1:{free_ports(1)[0]}"},
        "identity": {"state_dir": str(state / "identity"), "trust_bundle": str(fleet.folder / "ca.pem")},
        "telemetry": {"log_level": log_level},
    }
    (fleet.folder / "agent.toml").write_text(tomli_w.dumps(config))
    with (fleet.folder / "agent.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.agent", "--config", str(fleet.folder / "agent.toml")), stderr=log
        )
    try:

        async def is_there() -> bool:
            return bool((await fleet.kv.list(keys.NODES)).entries)

        await until(is_there, 60)
        yield process.pid
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


def credentials_of(pems: Sequence[str]) -> Credentials:
    """Credentials as `simulated_agents` hands them over."""
    key, chain, bundle = (text.encode() for text in pems)
    return Credentials(key_pem=key, chain_pem=chain, bundle_pem=bundle)


def load_average() -> list[float]:
    """How busy the machine is, as it is told with every figure."""
    return [round(each, 2) for each in os.getloadavg()]


def _bare(channel: grpc.aio.Channel, method: str) -> Callable[..., Awaitable[bytes]]:
    """A call of bytes, answered with bytes."""
    call: Callable[..., Awaitable[bytes]] = channel.unary_unary(method)
    return call


def _pems(credentials: Credentials) -> list[str]:
    return [pem.decode() for pem in (credentials.key_pem, credentials.chain_pem, credentials.bundle_pem)]


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
