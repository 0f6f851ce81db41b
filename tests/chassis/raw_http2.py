"""HTTP/2 by hand against a server of the chassis, for what no client library sends."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from bench.echo import SERVICE
from tests.harness.mesh import Mesh
from tests.inference.hostile.hpack import Answers, literal

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
ENHANCE_YOUR_CALM = 0xB


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def trusting(mesh: Mesh, folder: Path) -> ssl.SSLContext:
    """TLS as a client of gRPC has it."""
    bundle = folder / "bundle.pem"
    bundle.write_bytes(mesh.authority.bundle_pem)
    context = ssl.create_default_context(cafile=str(bundle))
    context.set_alpn_protocols(["h2"])
    return context


class Connection:
    """A connection; with the preface sent and settings agreed about unless told otherwise."""

    def __init__(self, mesh: Mesh, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._mesh, self.reader, self.writer = mesh, reader, writer
        self._next = 1
        self.answers = Answers()

    @classmethod
    @asynccontextmanager
    async def open(cls, mesh: Mesh, port: int, folder: Path, *, greets: bool = True) -> AsyncIterator[Self]:
        """Until the block ends."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting(mesh, folder), server_hostname="localhost"
        )
        try:
            made = cls(mesh, reader, writer)
            if greets:
                window = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24))
                writer.write(PREFACE + frame(SETTINGS, 0, 0, b"") + window)
                while (await made.receive())[:2] != (SETTINGS, 0):
                    pass
                writer.write(frame(SETTINGS, ACK, 0, b""))
            yield made
        finally:
            writer.transport.abort()  # a server that does not answer would be waited for

    def headers(self, method: str, *more: tuple[str, str]) -> tuple[int, bytes]:
        """The next stream, and the frame that opens a call on it."""
        stream, self._next = self._next, self._next + 2
        token = self._mesh.signer.token("users/alice")
        given: Sequence[tuple[str, str]] = [
            *(
                (":method", "POST"),
                (":scheme", "https"),
                (":path", f"/{SERVICE}/{method}"),
                (":authority", "localhost"),
            ),
            *(("te", "trailers"), ("content-type", "application/grpc"), ("authorization", f"Bearer {token}"), *more),
        ]
        return stream, frame(HEADERS, END_HEADERS, stream, b"".join(literal(name, value) for name, value in given))

    async def unary(self, method: str, body: bytes, *more: tuple[str, str]) -> str:
        """A call with these bytes for its data; its status, `reset` or `gone`."""
        stream, opening = self.headers(method, *more)
        self.writer.write(opening)
        for at in range(0, len(body), 16384):
            piece = body[at : at + 16384]
            self.writer.write(frame(DATA, END_STREAM if at + 16384 >= len(body) else 0, stream, piece))
        await self.writer.drain()
        status = ""
        while True:
            kind, flags, at, payload = await self.receive()
            if kind == GOAWAY:
                return status or "gone"
            if kind == HEADERS:
                status = self.answers.status(payload) or status
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))
            if at == stream and (kind == RST_STREAM or (flags & END_STREAM and kind in (DATA, HEADERS))):
                return status or "reset"

    async def receive(self) -> tuple[int, int, int, bytes]:
        """The next frame. Raises IncompleteReadError at the connection's end."""
        head = await self.reader.readexactly(9)
        payload = await self.reader.readexactly(int.from_bytes(head[:3]))
        return head[3], head[4], int.from_bytes(head[5:9]), payload
