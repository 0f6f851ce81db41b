"""Real agent processes, with a scripted scheduler and trainer that can be taken down and up again on the same ports."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from chassis.access import PolicyReplica
from chassis.identity import Identity
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Listener, Registration, Server
from chassis.stack import stack
from lepton.internal.v1.node_session_pb2_grpc import add_NodeSessionServiceServicer_to_server
from lepton.internal.v1.run_report_pb2_grpc import add_RunReportServiceServicer_to_server
from tests.harness.pki import Authority
from tests.harness.ports import free_ports
from tests.harness.scheduler import ScriptedScheduler
from tests.harness.trainer import ScriptedTrainer

ROOT = Path(__file__).parents[2]
SECRET = "canary-of-the-agents-own-environment"


class Peer:
    """A service of the mesh that can be stopped and started again at the same address."""

    def __init__(self, name: str, authority: Authority, port: int, registration: Registration) -> None:
        self.name, self.port = name, port
        self._identity = Identity(authority.issue(f"service/{name}"))
        self._registration = registration
        self._server: Server | None = None

    async def up(self) -> None:
        """Serve."""
        credentials = self._identity.server_credentials(require_client=True)
        metrics = RpcMetrics()
        self._server = Server(
            self.name,
            [self._registration],
            listeners=[Listener(name="mesh", address=f"127.0.0.1:{self.port}", credentials=credentials)],
            middleware=stack(PolicyReplica(), metrics),
            metrics=metrics,
        )
        await self._server.start()

    async def down(self) -> None:
        """Vanish."""
        if self._server is not None:
            await self._server.drain(0)
            self._server = None


@dataclass(eq=False)
class Agent:
    """A running agent process."""

    name: str
    process: asyncio.subprocess.Process
    state: Path

    def work(self) -> list[str]:
        """The folders of slices on its disk."""
        return sorted(each.name for each in (self.state / "work").iterdir())

    def descendants(self) -> list[psutil.Process]:
        """All that it has started, and all that those have."""
        return psutil.Process(self.process.pid).children(recursive=True)


@dataclass(eq=False)
class AgentWorld:
    """One test's scheduler, trainer and agents."""

    folder: Path
    authority: Authority
    scheduler: ScriptedScheduler
    trainer: ScriptedTrainer
    scheduler_peer: Peer
    trainer_peer: Peer
    agents: dict[str, Agent] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def artifacts(self) -> str:
        """The URL of the artifact store."""
        return f"file://{self.folder}/artifacts"

    async def start(self, node: str, *, arguments: tuple[str, ...] = (), **settings: Any) -> Agent:
        """Starts an agent."""
        state = self.folder / node
        self.authority.issue(f"agent/{node}").save(state / "identity")
        bundle = self.folder / "ca.pem"
        bundle.write_bytes(self.authority.bundle_pem)
        config = {
            "node": node,
            "pool": "general",
            "state_dir": str(state),
            "artifacts": self.artifacts,
            "cpu_milli": 2000,
            "memory_bytes": 1 << 30,
            "devices": [{"model": "virtual", "memory_bytes": 1 << 30}] * 2,
            "peers": {
                "scheduler": f"127.0.0.1:{self.scheduler_peer.port}",
                "trainer": f"127.0.0.1:{self.trainer_peer.port}",
            },
            "identity": {"state_dir": str(state / "identity"), "trust_bundle": str(bundle)},
            "telemetry": {"log_form": "console"},
            **settings,
        }
        path = self.folder / f"{node}.toml"
        path.write_text(tomli_w.dumps(config))
        command = arguments or ("-m", "services.agent")
        with (self.folder / f"{node}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                "--config",
                str(path),
                cwd=ROOT,
                stderr=log,
                env={**os.environ, "AGENT_SECRET": SECRET},
                start_new_session=True,
            )
        agent = self.agents[node] = Agent(f"pools/general/nodes/{node}", process, state)
        self._stack.push_async_callback(_end, agent)
        return agent

    def log(self, node: str) -> str:
        """What an agent has logged."""
        return (self.folder / f"{node}.log").read_text()


@asynccontextmanager
async def agent_world(folder: Path, *, ttl_s: float = 10.0) -> AsyncIterator[AgentWorld]:
    """A scheduler and a trainer, ready for agents."""
    authority = Authority()
    ports = free_ports(2)
    scheduler, trainer = ScriptedScheduler(ttl_s), ScriptedTrainer()
    world = AgentWorld(
        folder,
        authority,
        scheduler,
        trainer,
        Peer("scheduler", authority, ports[0], (add_NodeSessionServiceServicer_to_server, scheduler)),
        Peer("trainer", authority, ports[1], (add_RunReportServiceServicer_to_server, trainer)),
    )
    await world.scheduler_peer.up()
    await world.trainer_peer.up()
    try:
        yield world
    finally:
        await world._stack.aclose()
        await world.scheduler_peer.down()
        await world.trainer_peer.down()


async def _end(agent: Agent) -> None:
    if agent.process.returncode is None:
        agent.process.kill()
    await agent.process.wait()
