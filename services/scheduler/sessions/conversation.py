"""One agent's stream from its hello to its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from chassis.call import Call
from chassis.clock import Clock
from lepton.errors import InvalidArgument, LeptonError, PermissionDenied
from lepton.internal.v1 import node_session_pb2
from lepton.names import NodeName
from services.scheduler.sessions.delivery import Delivery
from services.scheduler.sessions.registry import Sessions
from services.scheduler.sessions.reports import Reports
from services.scheduler.sessions.session import Session
from services.scheduler.sessions.stream import Stream
from services.scheduler.sessions.task_reports import TaskReports

Request = node_session_pb2.OpenSessionRequest
Response = node_session_pb2.OpenSessionResponse
HELLO_S: Final = 10.0


class Conversations:
    """Holds the conversations with all agents that are connected here."""

    def __init__(
        self, sessions: Sessions, delivery: Delivery, reports: Reports, task_reports: TaskReports, clock: Clock
    ) -> None:
        self._clock = clock
        self._sessions = sessions
        self._delivery = delivery
        self._reports = reports
        self._task_reports = task_reports
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """What the conversations need to go on behind them, for ever."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._sessions.run())
            self._tasks.create_task(self._reports.run())
            self._tasks.create_task(self._task_reports.run())

    async def hold(
        self,
        requests: AsyncIterator[Request],
        write: Callable[[Response], Awaitable[None]],
        cut: Callable[[LeptonError], None],
        check: Callable[[NodeName], None],
    ) -> None:
        """Serve one stream; `check` refuses a caller that is not the node it says it is."""
        hello = await _hello(requests)
        check(await self._sessions.name(hello))
        assert self._tasks is not None, "the background loop runs before the server does"
        stream = Stream(write, cut, self._tasks)
        session = await self._sessions.open(hello, stream)
        try:
            self._delivery.greet(session)
            for report in hello.slices:
                self._reports.take(session, report)
            for said in hello.tasks:
                self._task_reports.take(session, said)
            await self._listen(session, requests, stream)
        finally:
            self._sessions.disconnected(session, stream)

    async def _listen(self, session: Session, requests: AsyncIterator[Request], stream: Stream) -> None:
        heartbeat = self._sessions.heartbeat
        ack = Response(heartbeat_ack=node_session_pb2.HeartbeatAck())
        async for message in requests:
            match message.WhichOneof("message"):
                case "heartbeat":
                    session.beat = message.heartbeat
                    if heartbeat(session):
                        ack.heartbeat_ack.sequence = message.heartbeat.sequence
                        ack.heartbeat_ack.send_time.FromDatetime(self._clock.now())
                        await stream.send(ack)
                case "slice":
                    self._reports.take(session, message.slice)
                case "tasks":
                    self._task_reports.take(session, message.tasks)
                case "goodbye":
                    await self._leave(session)
                    return
                case "hello":
                    raise InvalidArgument("HELLO_REPEATED", fields={"hello": "is the first message only"})
                case None:
                    continue  # of a newer agent

    async def _leave(self, session: Session) -> None:
        """In good order: what is still assigned to the node counts as lost, and the node is gone."""
        self._reports.lost(session)
        self._task_reports.lost(session)
        await self._reports.drained()
        await self._task_reports.drained()
        await self._sessions.close(session)


def peer_is_node(call: Call | None) -> Callable[[NodeName], None]:
    """Checks that the caller's certificate is that of the node's agent."""

    def check(name: NodeName) -> None:
        peer = call.peer if call is not None else ""
        if not peer.endswith(f"/agent/{name.node}"):
            raise PermissionDenied("NODE_IDENTITY_MISMATCH", peer=peer, node=str(name))

    return check


async def _hello(requests: AsyncIterator[Request]) -> node_session_pb2.Hello:
    try:
        async with asyncio.timeout(HELLO_S):
            async for first in requests:
                if first.HasField("hello") and first.hello.HasField("node"):
                    return first.hello
                break
    except TimeoutError:
        pass
    raise InvalidArgument("HELLO_REQUIRED", fields={"hello": "must come first and within 10 s, with its node"})
