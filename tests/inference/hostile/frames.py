"""HTTP/2 by hand, for what no client library sends: a TLS connection, frames, and the status that comes back."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from tests.inference.hostile.hpack import Answers, literal
from tests.inference.hostile.world import SERVICE, World

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + struct.pack(">I", stream) + payload


class Connection:
    """One connection to the gateway, with the preface sent."""

    def __init__(self, world: World, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._world, self._reader, self._writer = world, reader, writer
        self._next = 1
        self._answers = Answers()

    @classmethod
    @asynccontextmanager
    async def open(cls, world: World) -> AsyncIterator[Self]:
        """Connected and agreed about settings, until the block ends."""
        context = ssl.create_default_context(cafile=str(world.front.gateway.certificate))
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("localhost", world.front.port, ssl=context)
        try:
            writer.write(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)))
            opened = cls(world, reader, writer)
            while (await opened.receive())[:2] != (SETTINGS, 0):
                pass
            writer.write(frame(SETTINGS, ACK, 0, b""))  # before it, windows are as small as HTTP/2 has them
            yield opened
        finally:
            writer.close()

    def headers(self, method: str, *more: tuple[str, str], flags: int = END_HEADERS) -> bytes:
        """The frame that opens a call on the next stream."""
        self._stream, self._next = self._next, self._next + 2
        given = [
            *((":method", "POST"), (":scheme", "https"), (":path", f"{SERVICE}{method}"), (":authority", "localhost")),
            *(("te", "trailers"), ("content-type", "application/grpc"), *self._world.metadata, *more),
        ]
        return frame(HEADERS, flags, self._stream, b"".join(literal(name, value) for name, value in given))

    async def unary(self, method: str, body: bytes, *more: tuple[str, str]) -> str:
        """A call with the body as it is; its gRPC status, `reset` or `gone` when it ended without one."""
        self._writer.write(self.headers(method, *more))
        stream, pieces = self._stream, [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
        for at, piece in enumerate(pieces):
            self._writer.write(frame(DATA, END_STREAM if at == len(pieces) - 1 else 0, stream, piece))
        await self._writer.drain()
        return await self.answer(stream)

    async def answer(self, stream: int) -> str:
        """How a call ends."""
        status = ""
        async with asyncio.timeout(30):
            while True:
                kind, flags, at, payload = await self.receive()
                if kind == HEADERS:
                    status = self._answers.status(payload) or status
                if kind in (SETTINGS, PING) and not flags & ACK:
                    self._writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))
                if kind == GOAWAY:
                    return status or "gone"
                if at == stream and (kind == RST_STREAM or (flags & END_STREAM and kind in (DATA, HEADERS))):
                    return status or "reset"

    async def receive(self) -> tuple[int, int, int, bytes]:
        """The next frame. Raises IncompleteReadError at the connection's end."""
        head = await self._reader.readexactly(9)
        payload = await self._reader.readexactly(int.from_bytes(head[:3]))
        return head[3], head[4], int.from_bytes(head[5:9]), payload

    async def send(self, raw: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(raw)
        await self._writer.drain()
