"""All four kinds of calls, errors in the middle of streams, and streams that the server ends."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.access import Binding
from chassis.adapter import _send
from chassis.call import Call
from lepton import errors
from tests.harness.mesh import Mesh, serving

HELLO = EchoMessage(name="projects/acme", text="hello")


async def several(count: int, message: Any = HELLO) -> AsyncIterator[Any]:
    for _ in range(count):
        yield message


async def test_all_four_kinds_answer(alice: EchoStub) -> None:
    assert await alice.Echo(HELLO) == HELLO
    watched = EchoMessage(name="projects/acme", text="x", count=3)
    assert [each async for each in alice.Watch(watched)] == [watched] * 3
    assert (await alice.Collect(several(4))).count == 4
    assert [each async for each in alice.Chat(several(5))] == [HELLO] * 5


async def test_an_error_in_the_middle_of_a_stream_follows_what_was_sent() -> None:
    class Failing(Echo):
        async def Watch(self, request: Any, context: Any) -> Any:
            yield request
            raise errors.OutOfRange("REVISION_COMPACTED", revision="7")

    async with serving((add_echo_to_server, Failing())) as mesh, mesh.client() as channel:
        call = EchoStub(channel).Watch(HELLO)
        assert await call.read() == HELLO
        with pytest.raises(errors.OutOfRange) as caught:
            await call.read()
    assert caught.value.metadata == {"revision": "7"}


async def test_an_invalid_message_in_the_middle_of_a_stream_is_refused(alice: EchoStub) -> None:
    call = alice.Chat()
    await call.write(HELLO)
    assert await call.read() == HELLO
    await call.write(EchoMessage(name="projects/acme"))
    with pytest.raises(errors.InvalidArgument):
        await call.read()


async def test_permission_is_checked_on_every_message_of_a_stream(alice: EchoStub) -> None:
    call = alice.Chat()
    await call.write(HELLO)
    assert await call.read() == HELLO
    await call.write(EchoMessage(name="projects/other", text="x"))
    with pytest.raises(errors.NotFound):
        await call.read()


class Endless(Echo):
    """Sends one message, then waits for ever; says when it was closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def Watch(self, request: Any, context: Any) -> Any:
        try:
            yield request
            await asyncio.Event().wait()
        finally:
            self.closed.set()


@pytest.fixture
async def endless() -> AsyncIterator[tuple[Mesh, Endless]]:
    servicer = Endless()
    async with serving((add_echo_to_server, servicer)) as mesh:
        yield mesh, servicer


async def test_a_cancelled_stream_closes_its_generator(endless: tuple[Mesh, Endless]) -> None:
    mesh, servicer = endless
    async with mesh.client() as channel:
        call = EchoStub(channel).Watch(HELLO)
        assert await call.read() == HELLO
        call.cancel()
        await asyncio.wait_for(servicer.closed.wait(), 5)


async def test_a_revoked_token_cuts_open_streams(endless: tuple[Mesh, Endless]) -> None:
    mesh, servicer = endless
    token = mesh.signer.token("users/alice", jti="token-1")
    async with mesh.client(token=token) as channel:
        call = EchoStub(channel).Watch(HELLO)
        assert await call.read() == HELLO
        mesh.change_policy(revoked_tokens=frozenset({"token-1"}))
        with pytest.raises(errors.Unauthenticated, match="TOKEN_REVOKED"):
            await call.read()
        assert servicer.closed.is_set()
        with pytest.raises(errors.Unauthenticated, match="TOKEN_REVOKED"):
            await EchoStub(channel).Echo(HELLO)


async def test_a_stream_that_is_cut_within_a_write_is_not_cancelled_before_the_message_is_out() -> None:
    """Cancelled there, grpc.aio 1.81 never sent the status: one caller in fifty waited for ever on a busy machine."""
    written, go_on = asyncio.Event(), asyncio.Event()

    class Context:
        async def write(self, message: Any) -> None:
            written.set()
            await go_on.wait()

    async def responses() -> AsyncIterator[Any]:
        yield HELLO
        raise AssertionError("a stream that is cut sends no more")

    call = Call.__new__(Call)
    call.cut_by, call.is_sending, call.sent = None, False, 0
    call.task = asyncio.create_task(_send(call, responses(), Context()))
    await written.wait()
    call.cut(errors.Unauthenticated("TOKEN_REVOKED"))
    assert not call.task.cancelling()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert call.sent == 1


async def test_a_role_taken_away_cuts_open_streams(endless: tuple[Mesh, Endless]) -> None:
    mesh, _ = endless
    async with mesh.client() as channel:
        call = EchoStub(channel).Watch(HELLO)
        assert await call.read() == HELLO
        mesh.change_policy(bindings=(Binding(principal="users/alice", role="roles/none", scope="projects/acme"),))
        with pytest.raises(errors.PermissionDenied):
            await call.read()


async def test_draining_ends_streams_and_finishes_calls() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    class Slow(Endless):
        async def Echo(self, request: Any, context: Any) -> Any:
            entered.set()
            await release.wait()
            return request

    async with serving((add_echo_to_server, Slow())) as mesh, mesh.client() as channel:
        stub = EchoStub(channel)
        stream = stub.Watch(HELLO)
        assert await stream.read() == HELLO
        async with asyncio.TaskGroup() as tasks:

            async def slow_call() -> Any:
                return await stub.Echo(HELLO)

            in_flight = tasks.create_task(slow_call())
            await entered.wait()
            draining = tasks.create_task(mesh.server.drain(5.0))
            with pytest.raises(errors.Unavailable, match="DRAINING"):
                await stream.read()
            assert not draining.done()
            release.set()
        assert in_flight.result() == HELLO
