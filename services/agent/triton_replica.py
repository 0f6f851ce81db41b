"""Owns one serving replica: keeps a tritonserver with its models alive, and says when it is proven to answer right.

A server that died or hangs is replaced by a new one. One whose memory grows without end is replaced too, but it serves
until its successor is proved and its callers have gone over: no call is lost.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chassis.logs import logger
from lepton.errors import LeptonError
from services.agent.charge import Charge, FixedCharge
from services.agent.ports import Port
from services.agent.race import race
from services.agent.replica_settings import ReplicaSettings
from services.agent.replica_state import ReplicaEvent, ReplicaFailed, ReplicaState
from services.agent.served_model import ServedModel, materialise
from services.agent.server_watch import ServerWatch
from services.agent.triton_server import ServerFailed, TritonServer
from services.agent.triton_tls import ServingCertificate
from services.agent.triton_tools import TritonTools, server_options

log = logger(__name__)
_BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)


class TritonReplica:
    """Serves `models`, or a `charge` that changes, from `directory` until stopped.

    `run` is the life; `observe` hears of every change in order.
    """

    def __init__(
        self,
        *,
        tools: TritonTools,
        directory: Path,
        models: Sequence[ServedModel] = (),
        observe: Callable[[ReplicaEvent], Awaitable[None]],
        settings: ReplicaSettings | None = None,
        devices: Sequence[str] = (),
        charge: Charge | None = None,
        certificate: ServingCertificate | None = None,
    ) -> None:
        if not models and charge is None:
            raise ValueError("a replica serves at least one model")
        self._tools = tools
        self._directory = directory
        self._observe = observe
        self._settings = settings or ReplicaSettings()
        self._devices = devices
        self._certificate = certificate
        self._charge = charge or FixedCharge(models, self._settings)
        self._options = server_options(tools, models)
        self._outgrown: _Outgrown | None = None
        self._stopping = asyncio.Event()
        self._grace_s = self._settings.stop_s
        self._restarts = 0
        self._recent: deque[float] = deque(maxlen=self._settings.restarts + 1)
        self.pid: int | None = None

    def stop(self, grace_s: float | None = None) -> None:
        """Asks `run` to end: calls in flight get `grace_s` to finish."""
        if grace_s is not None:
            self._grace_s = grace_s
        self._stopping.set()

    async def run(self) -> None:
        """Returns when stopped; raises ReplicaFailed when restarting does not help. Cancelling it kills at once."""
        await asyncio.to_thread(materialise, self._directory / "repository", self._charge.models)  # writes files
        async with AsyncExitStack() as ports, _tasks() as retiring:
            ports.push_async_callback(self._drop)
            failure = ""
            while not self._stopping.is_set():
                if self._outgrown is None:
                    await self._tell(ReplicaState.STARTING, detail=failure)
                # Every server has a port of its own, for a route must only ever find a server that was proven: on the
                # old port a new one would get calls before its models are loaded. The old ones stay ours to the end,
                # so that a route which is not yet updated cannot find a stranger either.
                failure = await self._life(ports.enter_context(closing(Port())).number, retiring)
                if self._stopping.is_set():
                    break
                if self._outgrown is not None and not self._outgrown.is_old:
                    self._outgrown.is_old = True  # it has served well: its end is no failure
                    continue
                if await self._gives_up():
                    await self._tell(ReplicaState.FAILED, detail=failure)
                    raise ReplicaFailed(failure)
            self._hand_over(retiring)
        await self._tell(ReplicaState.STOPPED)

    async def _life(self, port: int, retiring: asyncio.TaskGroup) -> str:
        """One server from its start to its end; returns why it ended, empty when it was asked to.

        One that has outgrown its limit is still alive then, as `_outgrown`.
        """
        try:
            tls = await self._certificate.for_server() if self._certificate is not None else None
        except LeptonError as error:
            return f"no certificate for the server: {error}"
        server = TritonServer(
            tools=self._tools,
            tls=tls,
            repository=self._directory / "repository",
            log=self._directory / "triton.log",
            port=port,
            start_s=self._settings.start_s,
            trace_url=self._settings.trace_url,
            trace_roots=self._settings.trace_roots,
            options=self._options,
            devices=self._devices,
        )
        try:
            async with AsyncExitStack() as stack:
                if await race(self._stopping.wait(), self._start(server, stack)) == 0:
                    return ""
                self.pid = server.pid
                endpoints = {"grpc": server.endpoint, "metrics": f"127.0.0.1:{server.metrics_port}"}
                await self._tell(ReplicaState.READY, endpoints=endpoints)
                self._hand_over(retiring)
                watch = ServerWatch(server, self._charge, self._settings, self._certificate, tls)
                growth = await watch.growth()
                reasons = (watch.failed(), watch.outgrown(growth), self._charge.attend(server), watch.expired())
                if await race(self._stopping.wait(), *reasons) > 1:
                    self._outgrown = _Outgrown(server, watch, stack.pop_all())
                    return "its successor has not started"
                await self._tell(ReplicaState.STOPPING)
                # Told to end, Triton refuses calls at once: routes leave it first.
                began = asyncio.get_running_loop().time()
                await race(asyncio.sleep(self._grace_s / 2), watch.quiet(self._settings.leave_s))
                await server.stop(self._grace_s - (asyncio.get_running_loop().time() - began))
                return ""
        except ServerFailed as error:
            return str(error)
        finally:
            self.pid = None

    async def _start(self, server: TritonServer, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(server)
        await self._charge.begin(server)

    def _hand_over(self, retiring: asyncio.TaskGroup) -> None:
        """From now on its successor serves, or nobody is to."""
        if self._outgrown is not None:
            retiring.create_task(self._retire(self._outgrown))
            self._outgrown = None

    async def _drop(self) -> None:
        """Ends what has no successor."""
        if self._outgrown is not None:
            await self._outgrown.life.aclose()

    async def _retire(self, outgrown: "_Outgrown") -> None:
        """Stops a server once its callers have gone over to its successor, in good order."""
        async with outgrown.life:
            await race(self._stopping.wait(), outgrown.watch.quiet(self._settings.quiet_s))
            await outgrown.server.stop(self._grace_s)
            log.info("replaced server stopped", endpoint=outgrown.server.endpoint)

    async def _gives_up(self) -> bool:
        """Counts a failure and waits before the next start; true when there were too many lately."""
        now = asyncio.get_running_loop().time()
        self._recent.append(now)
        self._restarts += 1
        lately = [when for when in self._recent if now - when < self._settings.restart_window_s]
        if len(lately) > self._settings.restarts:
            return True
        backoff_s = _BACKOFF_S[min(len(lately), len(_BACKOFF_S)) - 1]
        try:
            async with asyncio.timeout(backoff_s):
                await self._stopping.wait()
        except TimeoutError:
            pass
        return False

    async def _tell(self, state: ReplicaState, *, endpoints: dict[str, str] | None = None, detail: str = "") -> None:
        await self._observe(
            ReplicaEvent(
                state=state,
                endpoints=endpoints or {},
                detail=detail,
                restarts=self._restarts,
                memory_bytes=dict(self._charge.memory_bytes) if state is ReplicaState.READY else {},
            )
        )


@dataclass(slots=True)
class _Outgrown:
    """A server that serves until its successor does, and what its end consists of."""

    server: TritonServer
    watch: ServerWatch
    life: AsyncExitStack
    is_old: bool = False
    """Whether a successor has been tried already."""


@asynccontextmanager
async def _tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose own errors are raised as they are: whoever waits for a replica expects ReplicaFailed."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except* ReplicaFailed as failures:
        raise failures.exceptions[0] from None
