"""Owns one serving replica: keeps a tritonserver with its models alive, and says when it is proven to answer right.

A server that died or hangs is replaced by a new one. One whose memory grows without end is replaced too, but it serves
until its successor is proved and its callers have gone over: no call is lost.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from chassis.logs import logger
from lepton.errors import LeptonError
from lepton.golden import Outcome
from services.agent.triton_memory import Growth, LeakLimit
from services.agent.triton_server import (
    Port,
    ServedModel,
    ServerFailed,
    TritonServer,
    TritonTools,
    materialise,
    server_options,
)
from services.agent.triton_tls import ServerTls, ServingCertificate

__all__ = [
    "ReplicaEvent",
    "ReplicaFailed",
    "ReplicaSettings",
    "ReplicaState",
    "ServedModel",
    "TritonReplica",
    "TritonTools",
]

log = logger(__name__)
_PROBE_ROWS: Final = 4
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
    """A change of state; READY brings `endpoints` (`grpc`, `metrics`) and the models' `memory_bytes`.

    STARTING again and FAILED bring `detail`. Every READY has other endpoints than the one before; one that follows
    another without a STARTING in between is a successor's, whose predecessor still answers for a while.
    """

    state: ReplicaState
    endpoints: dict[str, str] = field(default_factory=dict)
    detail: str = ""
    restarts: int = 0
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """By model: what its loading and its golden requests added to the server's memory."""


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
    memory_interval_s: float = 5.0
    certificate_interval_s: float = 30.0
    """How often it is looked whether the certificate of a server is still the one to have."""
    leak: LeakLimit = field(default_factory=LeakLimit)
    quiet_s: float = 2.0
    """A server whose successor is ready is stopped once it was asked nothing for so long."""
    leave_s: float = 1.0
    """A server that is to end is told so once it was asked nothing for so long, or half its grace is over."""
    drain_s: float = 60.0
    """The longest that it is waited for."""
    trace_url: str = ""
    """OTLP over HTTP, the whole address of the traces: `http://127.0.0.1:4318/v1/traces`."""


class Charge(Protocol):
    """What a replica's servers serve."""

    @property
    def models(self) -> Sequence[ServedModel]:
        """The models that are loaded and proved, or are to be by `begin`."""
        ...

    @property
    def memory_bytes(self) -> Mapping[str, int]:
        """What each was measured to take, by its name."""
        ...

    async def begin(self, server: TritonServer) -> None:
        """Loads into a new server what it must have before it is ready. Raises ServerFailed."""
        ...

    async def attend(self, server: TritonServer) -> None:
        """Looks after a server that is ready. Returns when a successor should take its place, in good order.

        Raises ServerFailed when it must be replaced at once.
        """
        ...


async def load_and_prove(server: TritonServer, model: ServedModel, settings: ReplicaSettings) -> int:
    """Loads a model and asks its golden requests; the bytes that this took. Raises ServerFailed."""
    before = await asyncio.to_thread(server.memory)
    await server.load(model.name, deadline_s=settings.load_s)
    verdict = await server.prove(model.name, model.golden, deadline_s=settings.golden_s)
    if not verdict.passed:
        raise ServerFailed(f"golden inference of {model.name}: {verdict.outcome}: {verdict.detail}")
    return max(await asyncio.to_thread(server.memory) - before, 0)


class _Fixed:
    """The same models for all of a replica's life."""

    def __init__(self, models: Sequence[ServedModel], settings: ReplicaSettings) -> None:
        self.models, self._settings = models, settings
        self.memory_bytes: dict[str, int] = {}

    async def begin(self, server: TritonServer) -> None:
        for model in self.models:
            self.memory_bytes[model.name] = await load_and_prove(server, model, self._settings)

    async def attend(self, server: TritonServer) -> None:
        await asyncio.Event().wait()  # for ever: nothing changes


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
        self._charge = charge or _Fixed(models, self._settings)
        self._options = server_options(tools, models)
        self._random = random.Random()  # noqa: S311 (which samples a probe takes)
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
            options=self._options,
            devices=self._devices,
        )
        try:
            async with AsyncExitStack() as stack:
                if await _first(self._stopping.wait(), self._start(server, stack)) == 0:
                    return ""
                self.pid = server.pid
                endpoints = {"grpc": server.endpoint, "metrics": f"127.0.0.1:{server.metrics_port}"}
                await self._tell(ReplicaState.READY, endpoints=endpoints)
                self._hand_over(retiring)
                growth = await self._growth(server)
                watching = (
                    self._watch(server),
                    self._outgrow(server, growth),
                    self._charge.attend(server),
                    self._expire(server, tls),
                )
                if await _first(self._stopping.wait(), *watching) > 1:
                    self._outgrown = _Outgrown(server, stack.pop_all())
                    return "its successor has not started"
                await self._tell(ReplicaState.STOPPING)
                # Told to end, Triton refuses calls at once: routes leave it first.
                began = asyncio.get_running_loop().time()
                await _first(asyncio.sleep(self._grace_s / 2), self._quiet(server, self._settings.leave_s))
                await server.stop(self._grace_s - (asyncio.get_running_loop().time() - began))
                return ""
        except ServerFailed as error:
            return str(error)
        finally:
            self.pid = None

    async def _start(self, server: TritonServer, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(server)
        await self._charge.begin(server)

    async def _growth(self, server: TritonServer) -> Growth:
        memory = await asyncio.to_thread(server.memory)
        now = asyncio.get_running_loop().time()
        return Growth(limit=self._settings.leak, baseline_bytes=memory, started_s=now)

    async def _outgrow(self, server: TritonServer, growth: Growth) -> None:
        """Returns once the server's memory has grown beyond its limit, and stays so."""
        while not growth.is_leak:
            await asyncio.sleep(self._settings.memory_interval_s)
            memory = await asyncio.to_thread(server.memory)
            growth = growth.read(memory, asyncio.get_running_loop().time())
        log.warning("server is replaced", why=str(growth), endpoint=server.endpoint)

    async def _expire(self, server: TritonServer, tls: ServerTls | None) -> None:
        """Returns once the server's certificate is old, or the roots that it trusts are not those of now."""
        while self._certificate is None or tls is None:
            await asyncio.Event().wait()  # for ever
        while True:
            await asyncio.sleep(self._settings.certificate_interval_s)
            if self._certificate.is_stale(tls.credentials):
                break
        log.info("server is replaced", why="its certificate or its roots are old", endpoint=server.endpoint)

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
            await _first(self._stopping.wait(), self._quiet(outgrown.server, self._settings.quiet_s))
            await outgrown.server.stop(self._grace_s)
            log.info("replaced server stopped", endpoint=outgrown.server.endpoint)

    async def _quiet(self, server: TritonServer, quiet_s: float) -> None:
        """Returns once nothing has been asked of a server for a while, or when it has been waited for long enough."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.drain_s
        seen, since = await self._calls(server), loop.time()
        while loop.time() < end and loop.time() - since < quiet_s:
            await asyncio.sleep(min(0.1, quiet_s / 4))
            calls = await self._calls(server)
            if calls != seen:
                seen, since = calls, loop.time()

    async def _calls(self, server: TritonServer) -> dict[str, int]:
        try:
            return await server.calls(deadline_s=self._settings.check_s)
        except ServerFailed:
            return {}  # it has ended by itself, or hangs: nobody is waited for

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
        for model in self._charge.models:
            few = model.golden.shuffled(_PROBE_ROWS, self._random)
            verdict = await server.prove(model.name, few, deadline_s=self._settings.check_s)
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
