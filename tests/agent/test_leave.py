"""How a session takes leave, where only its order matters: the stream is a double that ends when the test says so."""

import asyncio
from typing import Any

import grpc
import pytest

from chassis.clock import SystemClock
from lepton.channel import RpcCall
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.scheduler.v1 import node_pb2
from services.agent.session import Session


class Drained:
    """Nothing to report any more."""

    async def drained(self) -> None: ...


class Idle:
    """Slices, of which none runs."""

    outbox = Drained()

    async def stop_all(self, grace_s: float, why: str) -> None: ...


class EndsAtGoodbye:
    """A stream that the scheduler ends before the write of the goodbye is even confirmed."""

    def __init__(self, session: Session) -> None:
        self._session, self.heard, self.is_done = session, list[str](), False

    async def write(self, request: pb.OpenSessionRequest) -> None:
        self.heard.append(str(request.WhichOneof("message")))
        self._session._stream = None

    async def done_writing(self) -> None:
        self.is_done = True


async def test_a_scheduler_that_ends_the_stream_at_once_does_not_fail_the_leave() -> None:
    """The agent exited with 1: it said that it would write no more to a stream that was not there any more."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        unused: Any = None
        session = Session(
            channel=channel,
            node=node_pb2.Node(name="nodes/n1"),
            slices=Idle(),  # type: ignore[arg-type]
            tasks=Idle(),  # type: ignore[arg-type]
            outbox=Drained(),  # type: ignore[arg-type]
            usage=unused,
            clock=SystemClock(),
            grace_s=1.0,
        )
        stream = session._stream = EndsAtGoodbye(session)
        session._is_welcome.set()
        life = asyncio.ensure_future(asyncio.sleep(0))
        await session._leave(life)
        assert stream.heard == ["goodbye"]
        assert stream.is_done
        with pytest.raises(asyncio.InvalidStateError):
            await session._write(pb.OpenSessionRequest())


class Broken:
    """A call of grpc.aio that the server has ended, while grpc.aio does not know it yet."""

    async def done_writing(self) -> None:
        raise grpc.aio.InternalError('Failed "execute_batch"')


async def test_a_stream_that_has_just_ended_says_that_it_has_ended() -> None:
    """The agent exited with 1 here too: what gRPC raised was an error of its insides, which nobody expects."""
    with pytest.raises(asyncio.InvalidStateError):
        await RpcCall(Broken()).done_writing()
