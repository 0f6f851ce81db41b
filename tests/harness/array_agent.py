"""A node whose session and tasks are those of the real agent, in this process; they start real processes."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from chassis.clock import SystemClock
from lepton.scheduler.v1 import node_pb2, resources_pb2
from services.agent.inventory import Usage
from services.agent.outbox import Outbox
from services.agent.processes import Warden
from services.agent.runner import Runner, Surroundings
from services.agent.session import Session
from services.agent.slices import Slices
from services.agent.tasks import Tasks
from tests.harness.scheduling import Replica

SURROUNDINGS = Surroundings(address="127.0.0.1", artifacts="file:///nowhere", otlp_endpoint="", device_uuids={})


@dataclass(eq=False)
class ArrayAgent:
    """One node."""

    name: str
    tasks: Tasks
    session: Session
    running: "asyncio.Task[None]"

    async def leave(self) -> None:
        """In good order."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


@asynccontextmanager
async def array_agent(
    replica: Replica,
    folder: Path,
    name: str = "n1",
    *,
    cpu_milli: int = 4000,
    memory_bytes: int = 1 << 32,
    grace_s: float = 2.0,
    artifacts: str = SURROUNDINGS.artifacts,
    runners: Mapping[str, Runner] | None = None,
) -> AsyncIterator[ArrayAgent]:
    """A node of the pool `general`, connected to a replica; `runners` run what is no array."""
    surroundings = replace(SURROUNDINGS, artifacts=artifacts)
    environ = {"PATH": os.environ["PATH"]}
    node = node_pb2.Node(
        name=f"pools/general/nodes/{name}",
        address="127.0.0.1",
        capacity=resources_pb2.Resources(cpu_milli=cpu_milli, memory_bytes=memory_bytes),
    )
    async with Warden(environ) as warden:
        tasks = Tasks(surroundings=surroundings, root=folder / name, inherited=environ, warden=warden)
        async with tasks, Slices(node=node.name, runners=runners or {}, outbox=Outbox()) as slices:
            session = Session(
                channel=await replica.channel(f"agent/{name}"),
                node=node,
                slices=slices,
                tasks=tasks,
                outbox=slices._outbox,
                usage=lambda: Usage(cpu_milli=0, memory_bytes=0),
                clock=SystemClock(),
                grace_s=grace_s,
            )
            agent = ArrayAgent(node.name, tasks, session, asyncio.create_task(session.run()))
            try:
                yield agent
            finally:
                await agent.leave()
