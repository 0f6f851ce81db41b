"""Messages that are none: cut off, shuffled, random, compressed to burst, and lying about their length."""

import gzip
import os
import random
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.inference.hostile.frames import Connection
from tests.inference.hostile.refusals import assert_clean
from tests.inference.hostile.world import SERVICE, World, good_request

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]
ENDS = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNIMPLEMENTED", "INTERNAL", "RESOURCE_EXHAUSTED")
"""INTERNAL is what Triton's gRPC says of bytes that are no message; its words tell nothing."""
UNIMPLEMENTED = "12"
GOOD_BYTES = good_request().SerializeToString()
EXAMPLES = 2000 if os.environ.get("LEPTON_EXHAUSTIVE") else 100
METHODS = ("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "ServerMetadata")


async def test_a_message_cut_off_anywhere_is_refused(unharmed: World) -> None:
    for end in range(len(GOOD_BYTES)):
        if end < 64 or end % 8 == 0:
            assert_clean(await unharmed.call(GOOD_BYTES[:end]), *set(ENDS) - {"OK", "RESOURCE_EXHAUSTED"})


fields = st.recursive(
    st.tuples(st.integers(1, 20), st.sampled_from([0, 1, 2, 5]), st.binary(max_size=40)),
    lambda inner: st.tuples(st.integers(1, 20), st.just(2), st.lists(inner, max_size=5)),
    max_leaves=20,
)


def wire(field: object) -> bytes:
    """A field of a protobuf message, as right as its parts are."""
    number, kind, value = field  # type: ignore[misc]
    head = varint(number << 3 | kind)
    if kind == 0:
        return head + varint(int.from_bytes(value[:8]))
    if kind in (1, 5):
        size = 8 if kind == 1 else 4
        return head + bytes(value[:size]).ljust(size, b"\0")
    content = value if isinstance(value, bytes) else b"".join(map(wire, value))
    return head + varint(len(content)) + content


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """The good message with some of its bytes changed, lost or doubled."""
    raw = bytearray(GOOD_BYTES)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        match draw(st.sampled_from(["change", "lose", "double", "insert"])):
            case "change" if raw:
                raw[at] = draw(st.integers(0, 255))
            case "lose":
                del raw[at : at + draw(st.integers(1, 20))]
            case "double":
                raw[at:at] = raw[at : at + 40]
            case _:
                raw[at:at] = draw(st.binary(min_size=1, max_size=10))
    return bytes(raw)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    body=st.one_of(
        st.binary(max_size=300), st.lists(fields, max_size=8).map(lambda f: b"".join(map(wire, f))), spoiled()
    ),
    method=st.sampled_from(METHODS),
)
async def test_any_bytes_are_answered_or_refused(stage: World, body: bytes, method: str) -> None:
    assert_clean(await stage.call(body, method=method), *ENDS)


async def test_any_bytes_in_a_stream_end_that_stream_only(unharmed: World) -> None:
    draw = random.Random(7)
    for _ in range(40):
        sent = [draw.choice([draw.randbytes(50), GOOD_BYTES, GOOD_BYTES[: draw.randrange(200)]]) for _ in range(3)]
        stream = unharmed.channel.stream_stream(f"{SERVICE}ModelStreamInfer")(iter_of(sent), metadata=unharmed.metadata)
        answers = 0
        with suppress(grpc.aio.AioRpcError):
            async for _ in stream:
                answers += 1
        assert answers <= 3
        code = await stream.code()
        assert code.name in ENDS, await stream.details()


async def iter_of(messages: list[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def test_a_compressed_bomb_is_not_opened(unharmed: World) -> None:
    """100 MiB of zeros in 100 kB: refused before anybody unpacks it."""
    request = good_request()
    request.raw_input_contents[0] = bytes(100 << 20)
    bomb = gzip.compress(request.SerializeToString(), compresslevel=6)
    before = unharmed.resident_bytes()
    async with Connection.open(unharmed) as raw:
        for _ in range(5):
            framed = b"\1" + struct.pack(">I", len(bomb)) + bomb
            assert await raw.unary("ModelInfer", framed, ("grpc-encoding", "gzip")) == UNIMPLEMENTED
    assert unharmed.resident_bytes() < before + (64 << 20)


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (1 << 32) - 1])
@pytest.mark.parametrize("flag", [0, 1, 2, 255])
async def test_a_frame_that_lies_about_its_length_is_refused(unharmed: World, length: int, flag: int) -> None:
    async with Connection.open(unharmed) as raw:
        status = await raw.unary("ModelInfer", bytes([flag]) + struct.pack(">I", length) + GOOD_BYTES)
        assert status in {"3", "5", "7", "8", "12", "13"}


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\0\0\0", b"\0" * 5, b"\0" * 10_000, b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_body_that_is_no_frame_is_refused(unharmed: World, body: bytes) -> None:
    async with Connection.open(unharmed) as raw:
        status = await raw.unary("ModelInfer", body)
        assert status in {"3", "12", "13"}


async def test_two_messages_in_a_unary_call_do_not_smuggle_the_second(unharmed: World) -> None:
    other = good_request("demo.none").SerializeToString()
    for first, second in ((GOOD_BYTES, other), (other, GOOD_BYTES)):
        frames = b"".join(b"\0" + struct.pack(">I", len(each)) + each for each in (first, second))
        async with Connection.open(unharmed) as raw:
            status = await raw.unary("ModelInfer", frames)
            assert status in ({"0", "3", "12", "13"} if first is GOOD_BYTES else {"5"})
