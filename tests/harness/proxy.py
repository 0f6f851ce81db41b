"""A TCP proxy whose connections a test can cut, or leave standing without an answer."""

import asyncio
from types import TracebackType
from typing import Self


class Proxy:
    """Stands between a client and one server."""

    def __init__(self, target: str) -> None:
        self.lead_to(target)
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self._answers = asyncio.Event()
        self._answers.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        self._answers.set()
        if self._connections:
            await asyncio.wait(self._connections)

    def lead_to(self, target: str) -> None:
        """Where new connections end."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))

    def cut(self) -> None:
        """Reset every connection, and every new one."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def withhold_answers(self) -> None:
        """Pass on what the client says, but nothing that the server says."""
        self._answers.clear()

    def heal(self) -> None:
        """Work again."""
        self._is_cut = False
        self._answers.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        if self._is_cut:
            self.cut()
        always = asyncio.Event()
        always.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, server_writer, always))
                tasks.create_task(_pump(server_reader, writer, self._answers))
        finally:
            self._writers -= {writer, server_writer}


# An abort ends both directions: the reader of an aborted transport sees the end.
async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_pass: asyncio.Event) -> None:
    try:
        while data := await reader.read(65536):
            await may_pass.wait()
            if writer.is_closing():
                return
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
