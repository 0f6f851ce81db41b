"""A stream that the server refuses at once says so, though grpc.aio loses such answers (grpc/grpc#36066)."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from lepton import channel, errors

CALLS, MESSAGES = 200, 5


async def _refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> Any:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")


async def _refuse_all(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
    yield b""


@pytest.fixture
async def client() -> AsyncIterator[channel.Channel]:
    server = grpc.aio.server()
    handlers = {
        "Upload": grpc.stream_unary_rpc_method_handler(_refuse),
        "Chat": grpc.stream_stream_rpc_method_handler(_refuse_all),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Refusing", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel.connect(f"127.0.0.1:{port}", plaintext=True) as connected:
        yield connected
    await server.stop(None)


def _messages() -> Any:
    return iter([b"x"] * MESSAGES)


async def _talk(call: Any) -> None:
    for _ in range(MESSAGES):
        await call.write(b"x" * 60_000)
    await call.read()


async def test_a_refused_stream_is_told_why(client: channel.Channel) -> None:
    for _ in range(CALLS):
        with pytest.raises(errors.Unauthenticated, match="who are you"):
            await client.stream_unary("/test.Refusing/Upload")(_messages())
        with pytest.raises(errors.Unauthenticated, match="who are you"):
            async for _ in client.stream_stream("/test.Refusing/Chat")(_messages()):
                pass


async def test_a_stream_that_is_refused_while_it_writes_is_told_why(client: channel.Channel) -> None:
    for _ in range(CALLS):
        with pytest.raises(errors.Unauthenticated, match="who are you"):
            await _talk(client.stream_stream("/test.Refusing/Chat")())


async def test_grpc_alone_loses_the_answer(client: channel.Channel) -> None:
    """The control; once it fails, what channel.py does about it can go."""
    codes = set()
    for _ in range(5 * CALLS):
        try:
            async for _ in client.below.stream_stream("/test.Refusing/Chat")(_messages()):
                pass
        except grpc.aio.AioRpcError as error:
            codes.add(error.code())
        if grpc.StatusCode.INTERNAL in codes:
            return
    pytest.fail(f"only {codes}")
