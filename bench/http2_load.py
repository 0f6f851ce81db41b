"""A load generator for unary gRPC calls that costs far less than a server spends: pre-encoded HTTP/2 frames.

A client in grpc.aio needs more CPU per call than the server and would measure itself.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from struct import pack
from time import perf_counter
from typing import Final, cast

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0x0, 0x1, 0x4, 0x6, 0x7
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent again and again; `varying` is a header whose values take turns, outside of the header table."""

    path: str
    body: bytes
    headers: Sequence[tuple[str, str]] = ()
    varying: tuple[str, Sequence[str]] | None = None


@dataclass(slots=True, kw_only=True)
class Load:
    """What a run of calls showed."""

    seconds: float = 0.0
    failures: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Successful calls per second."""
        return len(self.latencies_s) / self.seconds

    def percentile_us(self, share: float) -> float:
        """A percentile of the latencies, in microseconds."""
        ordered = sorted(self.latencies_s)
        return 1e6 * ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def load(
    port: int,
    request: Request,
    *,
    seconds: float,
    concurrency: int,
    connections: int = 1,
    tls: ssl.SSLContext | None = None,
    server_name: str = "trainer",
    rate_per_s: float = 0.0,
) -> Load:
    """Keep `concurrency` calls in flight for a time; with a rate, send that many a second, whatever is answered.

    With a rate the gaps are random (Poisson), and a latency counts from when a call was due: a server that stalls is
    not asked less.
    """
    result = Load()
    opened = [await _open(port, request, result, tls, server_name) for _ in range(connections)]
    started = perf_counter()
    if not rate_per_s:
        for connection in opened:
            connection.begin(concurrency // connections, started + seconds)
    try:
        async with asyncio.timeout(seconds + 10):
            if rate_per_s:
                await _arrive(opened, rate_per_s, started + seconds)
            await asyncio.gather(*(connection.done for connection in opened))
    finally:
        for connection in opened:
            connection.close()
    result.seconds = perf_counter() - started
    return result


async def _arrive(opened: Sequence["_Connection"], rate_per_s: float, until: float) -> None:
    random, turns, due = Random(7), cycle(opened), perf_counter()
    while due < until:
        while perf_counter() < due:  # noqa: ASYNC110 - a timer of the loop would be a millisecond late
            await asyncio.sleep(0)
        next(turns).send(due)
        due += random.expovariate(rate_per_s)
    for connection in opened:
        connection.end()


class _Connection(asyncio.Protocol):
    def __init__(self, request: Request, result: Load, scheme: str) -> None:
        self._result = result
        self._buffer = bytearray()
        self._next_stream = 1
        self._sent_at: dict[int, float] = {}
        self._answered: set[int] = set()
        self._until = 0.0
        self._has_ended = False
        self._turn = 0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fixed = [
            (":method", "POST"), (":scheme", scheme), (":path", request.path), (":authority", "bench"),
            ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "30S"), *request.headers,
        ]  # fmt: skip
        # The first call fills the header table, the others refer to it: as gRPC's own clients do.
        self._first = b"".join(b"\x40" + _text(name) + _text(value) for name, value in fixed)
        self._again = bytes(0x80 | (62 + len(fixed) - 1 - index) for index in range(len(fixed)))
        name, values = request.varying or ("", ())
        self._varying = [b"\x00" + _text(name) + _text(value) for value in values] or [b""]
        self._data = b"\x00" + pack(">I", len(request.body)) + request.body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        window = _frame(0x8, 0, 0, pack(">I", 1 << 30))
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, pack(">HI", 0x4, (1 << 31) - 1)) + window)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def begin(self, concurrency: int, until: float) -> None:
        self._until, self._has_ended = until, True
        for _ in range(concurrency):
            self._send()

    def send(self, due: float) -> None:
        """One call, counted from when it was due."""
        self._send(due)

    def end(self) -> None:
        """No calls come any more; done when all are answered."""
        self._has_ended = True
        if not self._sent_at and not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 9:
            length = int.from_bytes(buffer[at : at + 3])
            if len(buffer) - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9])
            if kind == _DATA:
                self._answered.add(stream)
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._finish(stream)
            else:
                self._control(kind, flags, bytes(buffer[at + 9 : at + 9 + length]))
            at += 9 + length
        del buffer[:at]

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        assert self._transport is not None
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY and not self.done.done():
            self.done.set_exception(ConnectionError(f"GOAWAY {payload!r}"))

    def _finish(self, stream: int) -> None:
        now = perf_counter()
        sent_at = self._sent_at.pop(stream)
        if stream in self._answered:  # a refused call has trailers only
            self._answered.discard(stream)
            self._result.latencies_s.append(now - sent_at)
        else:
            self._result.failures += 1
        if now < self._until:
            self._send()
        elif self._has_ended and not self._sent_at and not self.done.done():
            self.done.set_result(None)

    def _send(self, due: float = 0.0) -> None:
        assert self._transport is not None
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._turn = (self._turn + 1) % len(self._varying)
        head = (self._first if stream == 1 else self._again) + self._varying[self._turn]
        self._sent_at[stream] = due or perf_counter()
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, stream, head) + _frame(_DATA, _END_STREAM, stream, self._data)
        )


async def _open(port: int, request: Request, result: Load, tls: ssl.SSLContext | None, server_name: str) -> _Connection:
    scheme = "https" if tls is not None else "http"
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(request, result, scheme),
        "127.0.0.1",
        port,
        ssl=tls,
        server_hostname=server_name if tls is not None else None,
    )
    return connection


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + pack(">I", stream) + payload


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, prefix = len(raw) - 127, bytearray(b"\x7f")
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    prefix.append(rest)
    return bytes(prefix) + raw
