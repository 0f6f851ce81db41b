"""Scheduler replicas in this process, on real sockets, over any store; with agents and clients for them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from chassis.access import PolicyReplica
from chassis.clock import Clock, SystemClock
from chassis.kv import KV
from chassis.paging import Pager
from lepton.scheduler.v1 import pool_pb2, program_pb2, resources_pb2, workload_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from services.scheduler import keys
from services.scheduler.config import Leader, Nodes, SchedulerConfig
from services.scheduler.scheduler import Scheduler
from tests.harness.agent import ScriptedAgent
from tests.harness.mesh import Mesh, serving
from tests.harness.wait import until

Workload = workload_pb2.Workload
TTL_S = 1.0


@dataclass(eq=False)
class Replica:
    """One scheduler, serving."""

    scheduler: Scheduler
    mesh: Mesh
    stack: AsyncExitStack
    admin: Any = None  # stub of users/root
    trainer: Any = None  # stub of the trainer service
    _channels: dict[str, Any] = field(default_factory=dict)

    async def channel(self, peer: str) -> Any:
        """A channel of a member of the mesh, `service/<name>` or `agent/<node>`."""
        if peer not in self._channels:
            peers = await self.stack.enter_async_context(self.mesh.peer(peer))
            self._channels[peer] = peers.channel("scheduler")
        return self._channels[peer]

    async def connect(self, agent: ScriptedAgent) -> ScriptedAgent:
        """Connect an agent with its own certificate."""
        return await agent.connect(await self.channel(f"agent/{agent.node.rpartition('/')[2]}"))

    async def create_pool(self, pool: str = "general") -> pool_pb2.Pool:
        """A pool, as an operator makes it."""
        answer: pool_pb2.Pool = await self.admin.CreatePool(pb.CreatePoolRequest(pool_id=pool, pool=pool_pb2.Pool()))
        return answer

    async def submit(self, workload_id: str, workload: Workload, project: str = "acme", **extra: str) -> Workload:
        """A workload, as the trainer creates it."""
        request = pb.CreateWorkloadRequest(
            parent=f"projects/{project}", workload_id=workload_id, workload=workload, **extra
        )
        answer: Workload = await self.trainer.CreateWorkload(request)
        return answer

    async def get(self, workload_id: str) -> Workload:
        """A workload, read by RPC."""
        answer: Workload = await self.trainer.GetWorkload(
            pb.GetWorkloadRequest(name=f"projects/acme/workloads/{workload_id}")
        )
        return answer

    async def until_state(self, workload_id: str, state: int, deadline_s: float = 30.0) -> Workload:
        """Follow a workload by watch until it is in a state."""
        async with asyncio.timeout(deadline_s):
            async for change in self.trainer.WatchWorkloads(pb.WatchWorkloadsRequest(parent="projects/acme")):
                workload: Workload = change.workload
                if workload.name.endswith(f"/{workload_id}") and workload.state == state:
                    return workload
        raise AssertionError("the watch ended")

    async def kill(self) -> None:
        """It is gone, without a word."""
        await self.stack.aclose()


def config(replica_id: str = "", ttl_s: float = TTL_S, lease_ttl_s: int = 5) -> SchedulerConfig:
    """Settings for tests: everything fast."""
    return SchedulerConfig(
        replica_id=replica_id or f"replica-{uuid.uuid4().hex[:6]}",
        nodes=Nodes(ttl_s=ttl_s, lease_ttl_s=lease_ttl_s, leases=2),
        leader=Leader(ttl_s=3, renew_deadline_s=2, retry_s=0.2, debounce_s=0.001),
    )


async def start_replica(kv: KV, settings: SchedulerConfig | None = None, clock: Clock | None = None) -> Replica:
    """Start a replica; `kill` ends it."""
    async with AsyncExitStack() as stack:
        access = PolicyReplica()
        pager = await Pager.open(kv, keys.PAGE_KEY)
        scheduler = Scheduler(kv, pager, clock or SystemClock(), settings or config(), access=access)
        await stack.enter_async_context(_running(scheduler))
        served = serving(*scheduler.registrations, name="scheduler", access=access, rate_per_s=0)
        mesh = await stack.enter_async_context(served)
        replica = Replica(scheduler=scheduler, mesh=mesh, stack=stack)
        replica.admin = SchedulerServiceStub(await stack.enter_async_context(mesh.client("users/root")))
        replica.trainer = SchedulerServiceStub(await replica.channel("service/trainer"))
        replica.stack = stack.pop_all()
        return replica
    raise AssertionError


@asynccontextmanager
async def replica_of(
    kv: KV, settings: SchedulerConfig | None = None, clock: Clock | None = None
) -> AsyncIterator[Replica]:
    """A replica for the block."""
    replica = await start_replica(kv, settings, clock)
    try:
        yield replica
    finally:
        await replica.kill()


@asynccontextmanager
async def _running(scheduler: Scheduler) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(loop(), name=name) for name, loop in scheduler.loops.items()]
    try:
        await scheduler.ledger.synced.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


def program(*argv: str) -> program_pb2.Program:
    """A program that is a process."""
    return program_pb2.Program(process=program_pb2.ProcessProgram(argv=argv or ("true",)))


def torch_program() -> program_pb2.Program:
    """A program that is a rank."""
    return program_pb2.Program(torch=program_pb2.TorchProgram(module="services.trainer.worker"))


def workload(
    count: int = 1,
    *,
    most: int = 0,
    kind: int = Workload.TRAINING,
    device_milli: int = 1000,
    cpu_milli: int = 100,
    runs: program_pb2.Program | None = None,
    **fields: Any,
) -> Workload:
    """A workload of one group."""
    group = workload_pb2.SliceGroup(
        name="worker",
        min_count=count,
        max_count=most,
        resources=resources_pb2.Resources(cpu_milli=cpu_milli, device_milli=device_milli),
        program=runs or (torch_program() if kind == Workload.TRAINING else program("serve")),
    )
    return Workload(kind=Workload.Kind.ValueType(kind), groups=[group], **fields)


__all__ = [
    "TTL_S",
    "Replica",
    "Workload",
    "config",
    "pb",
    "program",
    "replica_of",
    "start_replica",
    "until",
    "workload",
]
