"""A whole control plane for training, each part a process of its own: etcd, auth, scheduler, trainer, and agents.

What dies is started again at once, as a supervisor does. Nodes can join later and leave.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import psutil
import tomli_w

from chassis.clock import SystemClock
from chassis.etcd import EtcdKV
from deploy.local import configs, stack
from deploy.local.bootstrap import furnish
from deploy.local.component import Component, start, stop, until_ready
from deploy.local.configs import GIB, Settings, join_token_file, service_settings
from deploy.local.home import Home
from deploy.local.ports import Ports
from lepton.client import AsyncClient
from lepton.profile import Profile
from services.auth.audit import HEAD_KEY, AuditTrail
from services.auth.bootstrap import init
from services.auth.config import load
from services.auth.join_tokens import JoinTokens
from services.auth.kek import Kek

PROJECT: Final = "training"
_SERVICES: Final = ("auth", "scheduler", "trainer")
_MOST_NODES: Final = 8
_START_S: Final = 90.0


class TrainingStack:
    """One control plane with its nodes; `settings` are laid over those of each service by name ("agent" = all)."""

    def __init__(self, folder: Path, *, settings: Mapping[str, Settings] | None = None) -> None:
        self.home = Home(folder)
        self.home.create()
        self._settings = settings or {}
        self._members = (*_SERVICES, *(f"agent-n{number}" for number in range(1, _MOST_NODES + 1)))
        listeners = [f"{name}-{listener}" for name in self._members for listener in _listeners(name)]
        names = ["etcd-client", "etcd-peer", "otlp-grpc", "otlp-http", "gateway", "inference-client", "inference-mesh"]
        self.ports = Ports.choose(self.home.ports_file, [*names, *listeners])
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self.restarts: dict[str, int] = {}

    async def open(self) -> None:
        """Starts the control plane; nodes come by `join`."""
        await self._start(stack._etcd(self.home, self.ports))
        for name in _SERVICES:
            settings = service_settings(name, self.home, self.ports)
            settings["telemetry"] = {"log_form": "console", "sample_ratio": 0.0}
            settings["peers"].pop("inference", None)
            self._write(name, {**settings, **self._settings.get(name, {})})
        await self._admit()
        stack._write_profile(self.home, self.ports)
        await self._start(stack._service("auth", self.home, self.ports))
        await asyncio.gather(
            *(self._start(stack._service(name, self.home, self.ports)) for name in _SERVICES if name != "auth")
        )
        await furnish(self.home, self.ports)

    async def join(self, *nodes: str, devices: int = 2, pool: str = "general") -> None:
        """Nodes `n1` to `n8` join, each with so many virtual devices (0: its own); returns when their agents answer."""
        await asyncio.gather(*(self._join(node, devices, pool) for node in nodes))

    async def leave(self, node: str) -> None:
        """A node's agent is told to go, and does not come back."""
        await self._end(f"agent-{node}")

    def pid(self, component: str) -> int:
        """The process of a component now."""
        return self._processes[component].pid

    def pids(self) -> list[int]:
        """The processes of all components now, and the agents' launchers."""
        launchers = [self.launcher(name.removeprefix("agent-")) for name in self._processes if name.startswith("agent")]
        return [
            *(process.pid for process in self._processes.values()),
            *(each.pid for each in launchers if each is not None),
        ]

    def kill(self, component: str) -> None:
        """SIGKILL, as a crash; it is started again at once."""
        with contextlib.suppress(ProcessLookupError):
            self._processes[component].kill()

    def below(self, node: str) -> list[psutil.Process]:
        """All that a node's agent has started."""
        try:
            return psutil.Process(self.pid(f"agent-{node}")).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def launcher(self, node: str) -> psutil.Process | None:
        """A node's launcher."""
        agent = self.pid(f"agent-{node}")
        for each in self.below(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                if each.ppid() == agent and "services.agent.launcher" in each.cmdline():
                    return each
        return None

    def ranks(self, node: str) -> list[psutil.Process]:
        """The ranks that run on a node."""
        return [each for each in self._launched(node) if each.cwd().startswith(str(self.home.root))]

    def stores(self, node: str) -> list[psutil.Process]:
        """The stores of gangs that a node hosts: the launcher's other children."""
        return [each for each in self._launched(node) if not each.cwd().startswith(str(self.home.root))]

    def _launched(self, node: str) -> list[psutil.Process]:
        launcher = self.launcher(node)
        try:
            alive = (psutil.STATUS_RUNNING, psutil.STATUS_SLEEPING, psutil.STATUS_DISK_SLEEP)
            return [each for each in launcher.children() if each.status() in alive] if launcher is not None else []
        except psutil.NoSuchProcess:
            return []

    def log(self, component: str) -> str:
        """What a component has logged."""
        return self.home.log(component).read_text(errors="replace")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        """The administrator, in the tests' project."""
        password = self.home.admin_password.read_text().strip()
        profile = Profile.load(self.home.profile_file)
        async with AsyncClient.open(profile, project=PROJECT, user="admin", password=password) as opened:
            await opened.projects.create(PROJECT)
            yield opened

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        agents = [name for name in self._processes if name.startswith("agent")]
        await asyncio.gather(*(self._end(name, at_once=True) for name in agents))
        for name in reversed(list(self._processes)):
            await self._end(name, at_once=True)

    async def _join(self, node: str, devices: int, pool: str) -> None:
        name = f"agent-{node}"
        common = configs._common(name, self.home, self.ports, listeners=("admin", "metrics"))
        common["listen"] |= {"client": "", "mesh": ""}
        common["peers"].pop("inference", None)
        settings = {
            **common,
            "node": node,
            "pool": pool,
            "state_dir": str(self.home.state(name)),
            "artifacts": configs.artifacts(self.home),
            "cpu_milli": 8000,
            "memory_bytes": 8 * GIB,
            "devices": [{"model": "virtual", "memory_bytes": 16 * GIB}] * devices,
            "telemetry": {"log_form": "console", "sample_ratio": 0.0},
            **self._settings.get("agent", {}),
        }
        self._write(name, settings)
        await self._start(stack._agent(node, self.home, self.ports))

    async def _admit(self) -> None:
        """Makes the authority, the administrator and every member's join token, straight on the store."""
        config, clock = load(self.home.config("auth")), SystemClock()
        async with EtcdKV(config.etcd.endpoints, config.etcd.tls) as kv:
            await init(config, kv, clock)
            trail = AuditTrail(kv, clock, Kek.load(config.kek_file).derive(HEAD_KEY))
            tokens = JoinTokens(kv, trail, clock)
            for name in self._members:
                path = name.replace("agent-", "agent/") if name.startswith("agent") else f"service/{name}"
                made = await tokens.create(path, actor="local/join-token", action="join-token")
                _write_secret(Path(join_token_file(name, self.home)), made.token)

    async def _start(self, component: Component) -> None:
        process = self._processes[component.name] = await start(component)
        await until_ready(component, process, _START_S)
        self.restarts[component.name] = 0
        self._keepers[component.name] = asyncio.create_task(self._keep(component))

    async def _keep(self, component: Component) -> None:
        while True:
            await self._processes[component.name].wait()
            self._processes[component.name] = await start(component)
            self.restarts[component.name] += 1

    async def _end(self, name: str, *, at_once: bool = False) -> None:
        keeper, process = self._keepers.pop(name, None), self._processes[name]
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            process = self._processes[name]
        del self._processes[name]
        number = signal.SIGKILL if at_once else signal.SIGTERM
        quick = Component(name=name, argv=(), log=self.home.log(name), is_ready=_never, stop_s=30, stop_signal=number)
        await stop(process, quick)

    def _write(self, name: str, settings: Settings) -> None:
        self.home.config(name).write_text(tomli_w.dumps(settings))


def _write_secret(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)


async def _never() -> bool:
    return False


def _listeners(name: str) -> tuple[str, ...]:
    return ("admin", "metrics") if name.startswith("agent") else ("client", "mesh", "admin", "metrics")
