"""Connections that hold on: slow and silent ones, thousands of resets, and what is no HTTP/2 at all."""

import asyncio
import os
import ssl
import struct
import time

import pytest

from tests.harness.wait import until
from tests.inference.hostile.frames import (
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    frame,
)
from tests.inference.hostile.world import World, good_request

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]
GOOD_BYTES = good_request().SerializeToString()
FRAMED = b"\0" + len(GOOD_BYTES).to_bytes(4) + GOOD_BYTES
SILENT_S = 60
"""By then a gateway on a slow machine has closed who says nothing; it means to after 5 or 10 s."""


async def ended(reader: asyncio.StreamReader) -> None:
    """Reads until the other side has closed."""
    try:
        while await reader.read(65536):
            pass
    except OSError:
        pass


async def test_who_connects_and_says_nothing_is_let_go(unharmed: World) -> None:
    """Without a word of TLS, and with half a word: the handshake has its time."""
    connections = [await asyncio.open_connection("localhost", unharmed.front.port) for _ in range(100)]
    for at, (_, writer) in enumerate(connections):
        if at % 2:
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01")
    async with asyncio.timeout(SILENT_S):
        await asyncio.gather(*(ended(reader) for reader, _ in connections))
    for _, writer in connections:
        writer.close()


async def test_half_a_header_and_a_body_that_drips_hold_nobody_up(unharmed: World) -> None:
    async with Connection.open(unharmed) as slow, Connection.open(unharmed) as dripping:
        await slow.send(slow.headers("ModelInfer", flags=0))  # the rest of the headers never comes
        await dripping.send(dripping.headers("ModelInfer"))
        answered = unharmed.witness.answered
        for at in range(200):
            await dripping.send(frame(DATA, 0, 1, FRAMED[at : at + 1]))
        await until(lambda: unharmed.witness.answered > answered + 20, 60)


@pytest.mark.parametrize("count", [3_000])
async def test_rapid_resets_cost_the_attacker_the_connection_or_nothing(unharmed: World, count: int) -> None:
    """CVE-2023-44487: streams that are opened and reset at once."""
    before, began = unharmed.processes()[0].cpu_times(), time.monotonic()
    async with Connection.open(unharmed) as raw:
        reset = struct.pack(">I", 8)
        try:
            for _ in range(count):
                opened = raw.headers("ModelInfer")
                await raw.send(opened + frame(RST_STREAM, 0, int.from_bytes(opened[5:9]), reset))
        except OSError:
            pass  # it was closed
    answered = unharmed.witness.answered
    await until(lambda: unharmed.witness.answered > answered + 5, 30)
    after = unharmed.processes()[0].cpu_times()
    assert after.user + after.system - before.user - before.system < 10, time.monotonic() - began


FLOODS = {
    "pings": frame(PING, 0, 0, b"01234567"),
    "settings": frame(SETTINGS, 0, 0, struct.pack(">HI", 0x4, 65535)),
    "empty data": frame(DATA, 0, 1, b""),
    "windows": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
    "priorities": frame(2, 0, 1, b"\0\0\0\0\1"),
    "unknown frames": frame(0x77, 0, 0, b"x" * 100),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_frames_that_ask_for_nothing(unharmed: World, flood: bytes) -> None:
    before = unharmed.processes()[0].memory_info().rss
    async with Connection.open(unharmed) as raw:
        await raw.send(raw.headers("ModelInfer"))
        try:
            for _ in range(100):
                await raw.send(flood * 100)
        except OSError:
            pass  # it was closed
    assert unharmed.processes()[0].memory_info().rss < before + (64 << 20)


async def test_a_reader_that_never_reads_holds_its_own_answers_only(unharmed: World) -> None:
    """Fifty large answers with a window of nothing: the gateway stops reading from Triton, and keeps little."""
    request = good_request("demo.simple-identity")
    request.inputs[0].name, request.inputs[0].datatype = "INPUT0", "BYTES"
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend([1, 1])
    request.raw_input_contents[0] = struct.pack("<I", 1 << 20) + bytes(1 << 20)
    body = request.SerializeToString()
    framed = b"\0" + len(body).to_bytes(4) + body
    before = unharmed.resident_bytes()
    async with Connection.open(unharmed) as raw:
        await raw.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 0x4, 0)))
        for at in range(20):
            await raw.send(raw.headers("ModelInfer"))
            for start in range(0, len(framed), 16384):
                piece = framed[start : start + 16384]
                await raw.send(frame(DATA, 1 if start + 16384 >= len(framed) else 0, 2 * at + 1, piece))
        answered = unharmed.witness.answered
        await until(lambda: unharmed.witness.answered > answered + 10, 60)
        assert unharmed.resident_bytes() < before + (256 << 20)


NOT_HTTP2 = {
    "HTTP/1": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "random bytes": os.urandom(4096),
    "a frame of 16 MB": PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "data of no stream": PREFACE + frame(SETTINGS, 0, 0, b"") + frame(DATA, 1, 1, b"x"),
    "an even stream": PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 2, b"\x82"),
    "headers that refer to nothing": PREFACE
    + frame(SETTINGS, 0, 0, b"")
    + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\x7f"),
}


async def test_what_is_no_http2_ends_its_connection(unharmed: World) -> None:
    context = ssl.create_default_context(cafile=str(unharmed.front.gateway.certificate))
    context.set_alpn_protocols(["h2"])

    async def sent(raw: bytes) -> None:
        reader, writer = await asyncio.open_connection("localhost", unharmed.front.port, ssl=context)
        writer.write(raw)
        await ended(reader)
        writer.close()

    async with asyncio.timeout(SILENT_S):
        await asyncio.gather(*map(sent, NOT_HTTP2.values()))
