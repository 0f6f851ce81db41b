"""Streams that are open when their caller's right ends: cut at a real Envoy; others, and calls, go on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from chassis.clock import SystemClock
from services.inference.envoy import CallRules, Route, Routes, Target, render, write
from services.inference.envoy.access import Caller as Who
from services.inference.envoy.access import standing
from services.inference.holder import Holder
from services.inference.open_streams import OpenStreams
from tests.harness.gateway_caller import Caller, channel, reason
from tests.harness.named_replica import named_replica
from tests.harness.serving import GRANTS, RunningGateway, gateway
from tests.harness.wait import until

pytestmark = pytest.mark.integration
in_module = pytest.mark.asyncio(loop_scope="module")
MODEL, ABOVE = "demo.digits", "projects/demo/models/cnn"
KEY = "k" * 43


class Nobody:
    """Wakes nothing."""

    async def wake(self, deployment: str) -> bool:
        return True


@dataclass
class Scene:
    """A gateway whose streams are known, and the rules that they keep to."""

    front: RunningGateway
    streams: OpenStreams
    connection: grpc.aio.Channel

    def use(self, **changes: Any) -> None:
        self.streams.use(replace(GRANTS, **changes))

    async def stream(self, subject: str, *, answers: int = 1, **claims: Any) -> "Stream":
        token = self.front.authority.token(subject=subject, **claims)
        caller = Caller.of(self.connection, token)
        opened = Stream(caller.stub.ModelStreamInfer(metadata=caller.metadata, timeout=60))
        if answers:
            await opened.asks()
        else:
            await opened.call.write(service_pb2.ModelInferRequest(model_name=MODEL, id="0"))
        return opened


@dataclass
class Stream:
    """A stream of inferences of one caller."""

    call: Any

    async def asks(self) -> None:
        await self.call.write(service_pb2.ModelInferRequest(model_name=MODEL, id="1"))
        assert (await self.call.read()).infer_response.id == "one"

    async def is_open(self) -> bool:
        try:
            await self.asks()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as exits:
        streams = OpenStreams()
        holder = await exits.enter_async_context(
            Holder(Nobody(), SystemClock(), address="127.0.0.1:0", key=KEY, held_bytes=1 << 20, streams=streams)
        )
        folder = tmp_path_factory.mktemp("streams") / "envoy"
        front = await exits.enter_async_context(gateway(folder, holder_key=KEY, streams=holder.endpoint))
        one = await exits.enter_async_context(named_replica("one"))
        target = Target(revision=1, endpoints=(one.endpoint,))
        routes = Routes(routes=(Route(model=MODEL, targets=(target,), above=ABOVE),))
        await front.route(routes)
        streams.follow(routes)
        yield Scene(front, streams, await exits.enter_async_context(channel(front)))


@in_module
@pytest.mark.parametrize(
    "revoked",
    [
        lambda: {"revoked_tokens": frozenset({"t-1"})},
        lambda: {"revoked_sessions": frozenset({"s-1"})},
        lambda: {"revoked_principals": {"users/ada": 4e9}},
        lambda: {"grants": {**GRANTS.grants, "users/ada": frozenset({"other"})}},
        lambda: {"grants": {name: held for name, held in GRANTS.grants.items() if name != "users/ada"}},
    ],
    ids=["token", "session", "principal", "role on another project", "no role"],
)
async def test_an_open_stream_is_cut_and_the_others_go_on(scene: Scene, revoked: Callable[[], dict[str, Any]]) -> None:
    scene.use()
    ada = await scene.stream("users/ada", jti="t-1", sid="s-1")
    root = await scene.stream("users/root", jti="t-2", sid="s-2")
    await until(lambda: len(scene.streams) == 2)
    scene.use(**revoked())
    assert await ada.call.code() is grpc.StatusCode.INTERNAL
    assert not await ada.is_open()
    assert await root.is_open()
    await root.call.done_writing()
    assert await root.call.code() is grpc.StatusCode.OK
    await until(lambda: len(scene.streams) == 0)


@in_module
async def test_a_stream_without_an_answer_yet_ends_with_the_reason(scene: Scene) -> None:
    scene.use()
    ada = await scene.stream("users/ada", answers=0, jti="t-1", sid="s-1")
    await until(lambda: len(scene.streams) == 1)
    scene.use(revoked_tokens=frozenset({"t-1"}))
    with pytest.raises(grpc.aio.AioRpcError) as cut:
        await ada.call.read()
    assert cut.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason(cut.value) == "TOKEN_REVOKED"
    await until(lambda: len(scene.streams) == 0)


@in_module
async def test_a_role_on_the_model_that_is_served_keeps_a_stream_open(scene: Scene) -> None:
    scene.use()
    ada = await scene.stream("users/ada", jti="t-1", sid="s-1")
    await until(lambda: len(scene.streams) == 1)
    scene.use(grants={"users/ada": frozenset({ABOVE})})
    assert await ada.is_open()
    ada.call.cancel()
    await until(lambda: len(scene.streams) == 0)


@in_module
async def test_without_the_service_streams_are_served_and_not_cut(scene: Scene) -> None:
    """The control, and what is promised: predictions do not hang on the control plane."""
    before = scene.front.gateway
    scene.front.gateway = replace(before, streams=None)
    target = Target(revision=1, endpoints=())
    try:
        alone = replace(before, streams=None)
        routes = Routes(routes=(Route(model=MODEL, targets=(replace(target, endpoints=await _healthy(scene)),)),))
        write(alone.directory, render(alone, routes))
        streams = []

        async def is_unknown() -> bool:
            scene.use()
            streams.append(await scene.stream("users/ada", jti="t-1", sid="s-1"))
            return len(scene.streams) < len(streams)

        await until(is_unknown)
        scene.use(revoked_tokens=frozenset({"t-1"}))
        assert await streams[-1].is_open()
        for each in streams:
            each.call.cancel()
    finally:
        write(before.directory, render(before, Routes()))


async def _healthy(scene: Scene) -> tuple[Any, ...]:
    return tuple((await scene.front.admin.healthy())[f"{MODEL}@r1"])


def test_standing_is_what_the_gateway_would_say_now() -> None:
    ada = Who(principal="users/ada", token="t", session="s", issued=100.0, model=MODEL)
    assert standing(GRANTS, ada) is None
    assert standing(replace(GRANTS, revoked_principals={"users/ada": 100.0}), ada) is None  # issued after it
    assert standing(CallRules(grants={"users/ada": frozenset({ABOVE})}), ada) is not None
    assert standing(CallRules(grants={"users/ada": frozenset({ABOVE})}), ada, ABOVE) is None
    assert standing(CallRules(grants={"users/ada": frozenset({"demo.faces"})}), ada) is not None
