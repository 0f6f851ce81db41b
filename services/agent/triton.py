"""Owns one serving replica: keeps a tritonserver with its models alive, and says when it is proven to answer right."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from lepton.golden import Outcome
from services.agent.triton_server import Port, ServedModel, ServerFailed, TritonServer, TritonTools, materialise

__all__ = [
    "ReplicaEvent",
    "ReplicaFailed",
    "ReplicaSettings",
    "ReplicaState",
    "ServedModel",
    "TritonReplica",
    "TritonTools",
]

_BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)


class ReplicaFailed(Exception):
    """The replica cannot be kept alive here; the message is the last failure."""


class ReplicaState(StrEnum):
    """What a replica is doing."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEvent:
    """A change of state; READY brings `endpoints` (`grpc`, `metrics`), STARTING again and FAILED bring `detail`.

    Every READY has other endpoints than the one before.
    """

    state: ReplicaState
    endpoints: dict[str, str] = field(default_factory=dict)
    detail: str = ""
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """Deadlines of a replica, and how much failing is too much."""

    start_s: float = 30.0
    load_s: float = 60.0
    golden_s: float = 30.0
    check_interval_s: float = 2.0
    check_s: float = 5.0
    failed_checks: int = 2
    """Checks in a row that must fail before a server that still runs is called hung; a wrong answer counts at once."""
    restarts: int = 5
    restart_window_s: float = 300.0
    stop_s: float = 10.0
    trace_url: str = ""
    """OTLP over HTTP, the whole address of the traces: `http://127.0.0.1:4318/v1/traces`."""


class TritonReplica:
    """Serves `models` from `directory` until stopped. `run` is the life; `observe` hears of every change in order."""

    def __init__(
        self,
        *,
        tools: TritonTools,
        directory: Path,
        models: Sequence[ServedModel],
        observe: Callable[[ReplicaEvent], Awaitable[None]],
        settings: ReplicaSettings | None = None,
    ) -> None:
        if not models:
            raise ValueError("a replica serves at least one model")
        self._tools = tools
        self._directory = directory
        self._models = models
        self._observe = observe
        self._settings = settings or ReplicaSettings()
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
        await asyncio.to_thread(materialise, self._directory / "repository", self._models)  # writes files
        with ExitStack() as ports:
            failure = ""
            while not self._stopping.is_set():
                await self._tell(ReplicaState.STARTING, detail=failure)
                # Every server has a port of its own, for a route must only ever find a server that was proven: on the
                # old port a new one would get calls before its models are loaded. The old ones stay ours to the end,
                # so that a route which is not yet updated cannot find a stranger either.
                failure = await self._life(ports.enter_context(closing(Port())).number)
                if self._stopping.is_set():
                    break
                if await self._gives_up():
                    await self._tell(ReplicaState.FAILED, detail=failure)
                    raise ReplicaFailed(failure)
        await self._tell(ReplicaState.STOPPED)

    async def _life(self, port: int) -> str:
        """One server from its start to its end; returns why it ended, empty when it was asked to."""
        server = TritonServer(
            tools=self._tools,
            repository=self._directory / "repository",
            log=self._directory / "triton.log",
            port=port,
            start_s=self._settings.start_s,
            trace_url=self._settings.trace_url,
        )
        try:
            async with AsyncExitStack() as stack:
                if await _first(self._stopping.wait(), self._start(server, stack)) == 0:
                    return ""
                self.pid = server.pid
                endpoints = {"grpc": server.endpoint, "metrics": f"127.0.0.1:{server.metrics_port}"}
                await self._tell(ReplicaState.READY, endpoints=endpoints)
                if await _first(self._stopping.wait(), self._watch(server)) == 0:
                    await self._tell(ReplicaState.STOPPING)
                    await server.stop(self._grace_s)
                return ""
        except ServerFailed as error:
            return str(error)
        finally:
            self.pid = None

    async def _start(self, server: TritonServer, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(server)
        for model in self._models:
            await server.load(model.name, deadline_s=self._settings.load_s)
            verdict = await server.prove(model.name, model.golden, deadline_s=self._settings.golden_s)
            if not verdict.passed:
                raise ServerFailed(f"golden inference of {model.name}: {verdict.outcome}: {verdict.detail}")

    async def _watch(self, server: TritonServer) -> None:
        """Raises ServerFailed once the server must be replaced."""
        await _first(self._probe(server), server.ended())
        raise ServerFailed(f"tritonserver ended with {await server.ended()}: {server.last_words()}")

    async def _probe(self, server: TritonServer) -> None:
        """Golden inference again and again, for a server that hangs still accepts connections."""
        failed = 0
        while True:
            await asyncio.sleep(0.1 if failed else self._settings.check_interval_s)
            failure, is_final = await self._check(server)
            failed = failed + 1 if failure else 0
            if failure and (is_final or failed >= self._settings.failed_checks):
                raise ServerFailed(failure)

    async def _check(self, server: TritonServer) -> tuple[str, bool]:
        for model in self._models:
            verdict = await server.prove(model.name, model.golden.head(1), deadline_s=self._settings.check_s)
            if not verdict.passed:
                failure = f"liveness of {model.name}: {verdict.outcome}: {verdict.detail}"
                return failure, verdict.outcome in (Outcome.MISMATCHED, Outcome.MALFORMED)
        return "", False

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
            ReplicaEvent(state=state, endpoints=endpoints or {}, detail=detail, restarts=self._restarts)
        )


async def _first(*coroutines: Coroutine[Any, Any, object]) -> int:
    """Runs them together until one ends, cancels the others, and returns which it was; its error is raised."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        winner = next(index for index, task in enumerate(tasks) if task.done())
        tasks[winner].result()
        return winner
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
