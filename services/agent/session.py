"""The agent's session with the scheduler: reopened when it breaks, and fenced when it cannot be kept alive."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, NoReturn

import grpc

from chassis.clock import Clock
from chassis.clock_skew import ClockSkew
from chassis.logs import logger
from lepton.errors import Aborted, FailedPrecondition, LeptonError, PermissionDenied, Unavailable
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.internal.v1.node_session_pb2_grpc import NodeSessionServiceStub
from lepton.scheduler.v1 import node_pb2
from services.agent.fence import Fence
from services.agent.inventory import Usage
from services.agent.outbox import Outbox
from services.agent.race import race
from services.agent.slices import Slices
from services.agent.tasks import Tasks

log = logger(__name__)

_BACKOFF_S: Final = (0.1, 2.0)
_NO_POOL_S: Final = 5.0  # an operator has to make it
_RESEND_S: Final = 5.0
_GATHER_S: Final = 0.02  # between two reports about tasks: one is stored at the price of one, however much it tells
_GOODBYE_S: Final = 5.0


class Fenced(Exception):
    """The session's time was up; everything that ran here is dead."""


class Session:
    """Says what this node is and does, and does what it is told."""

    def __init__(
        self,
        *,
        channel: grpc.aio.Channel,
        node: node_pb2.Node,
        slices: Slices,
        tasks: Tasks,
        outbox: Outbox,
        usage: Callable[[], Usage],
        clock: Clock,
        grace_s: float,
    ) -> None:
        self._stub: Any = NodeSessionServiceStub(channel)
        self._node, self._slices, self._tasks, self._outbox, self._usage = node, slices, tasks, outbox, usage
        self._clock, self._grace_s = clock, grace_s
        self._skew = ClockSkew("scheduler", clock)
        self._declared_name = node.name  # its pool may be open
        self._session_id = ""  # empty: nothing of an earlier session is alive
        self._sequence = 0
        self._sent_s: dict[int, float] = {}  # when the heartbeats went out that are not acknowledged
        self._fence: Fence | None = None
        self._has_fence = asyncio.Event()
        self._fencing = asyncio.Lock()
        self._was_fenced = asyncio.Event()
        self._is_welcome = asyncio.Event()
        self._is_leaving = self._has_left = False
        self._writing = asyncio.Lock()
        self._stream: Any = None

    async def run(self) -> None:
        """Keep the session until cancelled; then stop everything and take leave in good order."""
        life = asyncio.ensure_future(race(self._stay_connected(), self._guard()))
        try:
            await asyncio.shield(life)
        except asyncio.CancelledError:
            if not life.done():
                await self._leave(life)
            raise
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

    async def _stay_connected(self) -> None:
        backoff_s = 0.0
        while not self._has_left:
            pause_s = 0.0
            try:
                await self._connect()
            except PermissionDenied:
                await self._start_afresh()
                raise
            except Aborted as error:
                await self._start_afresh()  # SESSION_EXPIRED: what ran here is already counted as lost
                if error.reason == "SESSION_SUPERSEDED":
                    raise
                log.warning("session aborted", why=str(error))
            except FailedPrecondition as error:
                log.warning("session refused", why=str(error))
                pause_s = _NO_POOL_S
            except Fenced:
                log.warning("session fenced", node=self._node.name)
            except (LeptonError, asyncio.InvalidStateError) as error:  # the latter: written to after its end
                log.warning("session lost", why=str(error))
            backoff_s = min(max(backoff_s * 2, _BACKOFF_S[0]), _BACKOFF_S[1]) if not self._is_welcome.is_set() else 0.05
            await self._clock.sleep(max(pause_s, backoff_s * random.uniform(0.5, 1.0)))  # noqa: S311  # jitter

    async def _connect(self) -> None:
        if self._is_due():
            await self._start_afresh()
        self._is_welcome.clear()
        self._was_fenced.clear()
        self._sent_s.clear()
        stream = self._stream = self._stub.OpenSession()
        try:
            self._node.session_id = self._session_id
            sent_s = self._clock.monotonic()
            known = pb.Hello(node=self._node, slices=self._slices.known(), tasks=self._tasks.outbox.take_all())
            await stream.write(pb.OpenSessionRequest(hello=known))
            reporting = self._report(), self._report_tasks()
            await race(self._listen(sent_s), self._beat(), *reporting, self._until_fenced())
        finally:
            self._stream = None
            stream.cancel()

    async def _listen(self, hello_sent_s: float) -> None:
        async for response in self._stream:
            await self._enforce()
            kind = response.WhichOneof("message")
            if kind == "welcome":
                self._welcome(response.welcome, hello_sent_s)
            elif kind == "heartbeat_ack":
                self._skew.note(response.heartbeat_ack.send_time)
                sequence = response.heartbeat_ack.sequence
                self._renew(self._sent_s.pop(sequence, None))
                for older in [each for each in self._sent_s if each < sequence]:  # answered by this one too
                    del self._sent_s[older]
            elif kind == "slice_ack":
                self._slices.acknowledge(response.slice_ack)
            elif kind == "tasks_ack":
                self._tasks.outbox.acknowledge(response.tasks_ack)
            elif kind == "start" and not self._is_leaving:
                self._slices.start(response.start)
            elif kind == "start_tasks" and not self._is_leaving:
                self._tasks.start(response.start_tasks)
            elif kind == "stop":
                if response.stop.HasField("tasks"):
                    self._tasks.stop_some(response.stop)
                elif not self._tasks.stop(response.stop):
                    self._slices.stop(response.stop)
            elif kind == "gang_endpoint":
                self._slices.learn_store(response.gang_endpoint)
        if not self._is_leaving:
            raise Unavailable("UNREACHABLE", "the scheduler ended the session")

    def _welcome(self, welcome: pb.Welcome, hello_sent_s: float) -> None:
        self._session_id = welcome.session_id
        self._node.name = self._slices.node = welcome.node or self._node.name
        self._fence = Fence(ttl_s=welcome.ttl_s, sent_s=hello_sent_s)
        self._has_fence.set()
        if not self._is_leaving:
            self._slices.reconcile(welcome.assignments)
            self._tasks.reconcile(welcome.tasks)
        self._is_welcome.set()
        log.info("session open", node=self._node.name, session=welcome.session_id, ttl_s=welcome.ttl_s)

    def _renew(self, sent_s: float | None) -> None:
        if sent_s is not None and self._fence is not None:
            self._fence = self._fence.renewed(sent_s)

    async def _beat(self) -> None:
        await self._is_welcome.wait()
        resent_s = self._clock.monotonic()
        while True:
            await self._enforce()
            assert self._fence is not None
            now_s = self._clock.monotonic()
            if now_s - resent_s >= _RESEND_S:
                self._outbox.resend()
                self._tasks.outbox.resend()
                resent_s = now_s
            self._sequence += 1
            self._sent_s[self._sequence] = now_s
            usage = self._usage()
            beat = pb.Heartbeat(
                sequence=self._sequence, cpu_used_milli=usage.cpu_milli, memory_used_bytes=usage.memory_bytes
            )
            await self._write(pb.OpenSessionRequest(heartbeat=beat))
            await self._clock.sleep(min(1.0, self._fence.ttl_s / 5))

    async def _report(self) -> None:
        await self._is_welcome.wait()
        while True:
            await self._outbox.changed()
            await self._enforce()
            for report in self._outbox.take():
                await self._write(pb.OpenSessionRequest(slice=report))

    async def _report_tasks(self) -> None:
        await self._is_welcome.wait()
        while True:
            await self._tasks.outbox.changed()
            await self._enforce()
            for report in self._tasks.outbox.take():
                await self._write(pb.OpenSessionRequest(tasks=report))
            await self._clock.sleep(_GATHER_S)

    async def _write(self, request: pb.OpenSessionRequest) -> None:
        async with self._writing:
            if self._stream is None:
                raise asyncio.InvalidStateError("the session has ended")
            await self._stream.write(request)

    async def _guard(self) -> NoReturn:
        while True:
            await self._has_fence.wait()
            assert self._fence is not None
            if self._is_due():
                await self._start_afresh()
            else:
                await self._clock.sleep(self._fence.due_s - self._clock.monotonic())

    async def _enforce(self) -> None:
        # Before anything is sent or obeyed: this process may have been stopped for longer than its time.
        if self._is_due():
            await self._start_afresh()
            raise Fenced

    async def _until_fenced(self) -> None:
        await self._was_fenced.wait()
        raise Fenced

    def _is_due(self) -> bool:
        return self._fence is not None and self._fence.is_due(self._clock.monotonic())

    async def _start_afresh(self) -> None:
        async with self._fencing:
            if not self._session_id:
                return
            log.warning("killing all slices", node=self._node.name)
            await asyncio.gather(self._slices.kill_all(), self._tasks.kill_all())
            self._session_id = ""
            self._node.name = self._declared_name
            self._fence = None
            self._has_fence.clear()
            self._was_fenced.set()

    async def _leave(self, life: asyncio.Future[int]) -> None:
        self._is_leaving = True
        why = "the node leaves"
        await asyncio.gather(self._slices.stop_all(self._grace_s, why), self._tasks.stop_all(self._grace_s, why))
        stream = self._stream
        if stream is None or not self._is_welcome.is_set():
            return
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._outbox.drained()
                await self._tasks.outbox.drained()
                self._has_left = True
                await self._write(pb.OpenSessionRequest(goodbye=pb.Goodbye()))
                await stream.done_writing()  # the scheduler, which has heard the goodbye, may have ended it already
                await asyncio.wait({life})  # the scheduler ends the stream
        except (TimeoutError, LeptonError, asyncio.InvalidStateError) as error:
            log.warning("left without a goodbye", why=str(error))
