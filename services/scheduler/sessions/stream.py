"""One agent's stream, as others write to it: in order, one message at a time, never waiting for the agent."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import grpc.aio

from lepton.errors import LeptonError
from lepton.internal.v1 import node_session_pb2

Message = node_session_pb2.OpenSessionResponse


class Stream:
    """The sending side of a stream."""

    def __init__(
        self,
        write: Callable[[Message], Awaitable[None]],
        cut: Callable[[LeptonError], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.cut = cut  # ends the stream with this error
        self._write = write
        self._tasks = tasks
        self._outbox: deque[Message] = deque()
        self._is_writing = False  # gRPC takes one write at a time

    async def send(self, message: Message) -> None:
        """Write now, or after what is being written; for the stream's own task, which may wait for the agent."""
        if self._is_writing:
            self._outbox.append(message)
            return
        self._is_writing = True
        try:
            await self._write(message)
        finally:
            self._is_writing = False
        if self._outbox:
            self._begin()

    def post(self, message: Message) -> None:
        """Have it written after everything posted before."""
        self._outbox.append(message)
        if not self._is_writing:
            self._begin()

    def _begin(self) -> None:
        self._is_writing = True
        self._tasks.create_task(self._flush())

    async def _flush(self) -> None:
        try:
            while self._outbox:
                await self._write(self._outbox.popleft())
        except grpc.aio.BaseError:
            self._outbox.clear()  # the stream has ended; a later one begins with what matters
        finally:
            self._is_writing = False
