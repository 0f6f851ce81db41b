"""Streams that are open when their caller's right ends: cut at a real Envoy; others, and calls, go on.

Whenever they were opened: also while the service beside Envoy was away, or before it was started anew.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from chassis.clock import SystemClock
from lepton.errors import PermissionDenied, Unauthenticated
from services.inference.envoy import CallRules, Endpoint, Route, Routes, Target, render, write
from services.inference.envoy.access import Caller as Who
from services.inference.envoy.access import standing
from services.inference.envoy.extprocpb.external_processor_pb2 import ProcessingRequest
from services.inference.envoy.open_streams import AGAIN
from services.inference.envoy.upstream import HELD
from services.inference.gateway_identity import kept_key
from services.inference.holder import Holder
from services.inference.open_streams import PROCESS, OpenStreams
from tests.harness.gateway_caller import Caller, channel, reason
from tests.harness.named_replica import named_replica
from tests.harness.proxy import Proxy
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
    wire: Proxy
    """What lies between Envoy and the service."""
    beside: Holder
    routes: Routes

    async def stop(self, *, abruptly: bool) -> None:
        """The service ends: by itself, or in the middle of everything."""
        if abruptly:
            self.wire.cut()
        await self.beside.__aexit__(None, None, None)
        self.wire.cut()

    async def start_anew(self) -> None:
        """Another process of the service: it knows nothing yet but where the models are."""
        self.streams = OpenStreams()
        self.beside = await service(self.streams).__aenter__()
        self.wire.lead_to(where(self.beside))
        self.wire.heal()
        self.streams.follow(self.routes)

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


def service(streams: OpenStreams) -> Holder:
    return Holder(Nobody(), SystemClock(), address="127.0.0.1:0", key=KEY, held_bytes=1 << 20, streams=streams)


def where(holder: Holder) -> str:
    return f"{holder.endpoint.host}:{holder.endpoint.port}"


@asynccontextmanager
async def scene_in(folder: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as exits:
        streams = OpenStreams()
        beside = await service(streams).__aenter__()
        wire = await exits.enter_async_context(Proxy(where(beside)))
        front = await exits.enter_async_context(
            gateway(folder / "envoy", holder_key=KEY, streams=Endpoint.parse(wire.endpoint))
        )
        one = await exits.enter_async_context(named_replica("one"))
        target = Target(revision=1, endpoints=(one.endpoint,))
        routes = Routes(routes=(Route(model=MODEL, targets=(target,), above=ABOVE),))
        await front.route(routes)
        streams.follow(routes)
        found = Scene(front, streams, await exits.enter_async_context(channel(front)), wire, beside, routes)
        try:
            yield found
        finally:
            await found.beside.__aexit__(None, None, None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with scene_in(tmp_path_factory.mktemp("streams")) as found:
        yield found


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
async def test_a_stream_without_an_answer_hears_that_it_lacks_the_permission(scene: Scene) -> None:
    scene.use()
    ada = await scene.stream("users/ada", answers=0)
    await until(lambda: len(scene.streams) == 1)
    scene.use(grants={})
    with pytest.raises(grpc.aio.AioRpcError) as cut:
        await ada.call.read()
    assert cut.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason(cut.value) == "PERMISSION_DENIED"
    await until(lambda: len(scene.streams) == 0)


@in_module
@pytest.mark.parametrize("abruptly", [True, False], ids=["killed", "stopped"])
async def test_streams_are_known_again_to_a_service_that_was_away(scene: Scene, abruptly: bool) -> None:
    """Those from before, and those from while it was away; none of them notices."""
    scene.use()
    before = await scene.stream("users/ada", jti="t-1")
    root = await scene.stream("users/root", jti="t-2")
    await until(lambda: len(scene.streams) == 2)
    await scene.stop(abruptly=abruptly)
    while_away = await scene.stream("users/ada", jti="t-3")
    assert await before.is_open()
    await scene.start_anew()
    await until(lambda: len(scene.streams) == 3)
    assert all([await each.is_open() for each in (before, while_away, root)]), "no policy has come yet: none is judged"
    scene.use(revoked_tokens=frozenset({"t-1"}))
    assert await before.call.code() is grpc.StatusCode.INTERNAL
    assert await while_away.is_open()
    scene.use(grants={"users/root": frozenset({"*"})})
    assert await while_away.call.code() is grpc.StatusCode.INTERNAL
    assert await root.is_open()
    await root.call.done_writing()
    assert await root.call.code() is grpc.StatusCode.OK
    await until(lambda: len(scene.streams) == 0)


@in_module
async def test_what_was_revoked_while_the_service_was_away_is_cut_by_the_first_policy(scene: Scene) -> None:
    scene.use()
    ada = await scene.stream("users/ada", jti="t-1")
    await until(lambda: len(scene.streams) == 1)
    await scene.stop(abruptly=True)
    await scene.start_anew()
    scene.use(revoked_tokens=frozenset({"t-1"}))
    assert await ada.call.code() is grpc.StatusCode.INTERNAL


@in_module
@pytest.mark.slow
async def test_a_service_that_hangs_loses_no_stream(scene: Scene) -> None:
    """Envoy's keepalive finds it out, and tells another connection."""
    scene.use()
    ada = await scene.stream("users/ada", jti="t-1")
    await until(lambda: len(scene.streams) == 1)
    scene.wire.withhold_answers()
    failed = await scene.front.admin.counter("cluster.open-streams.upstream_rq_retry")

    async def is_told_again() -> bool:
        return await scene.front.admin.counter("cluster.open-streams.upstream_rq_retry") > failed

    await until(is_told_again, 30)
    assert await ada.is_open()
    scene.wire.heal()
    await until(lambda: len(scene.streams) == 1)
    scene.use(revoked_tokens=frozenset({"t-1"}))
    assert await ada.call.code() is grpc.StatusCode.INTERNAL
    await until(lambda: len(scene.streams) == 0)


@in_module
async def test_control_told_once_only_streams_end_with_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AGAIN, "retry_on", "")
    async with scene_in(tmp_path) as scene:
        scene.use()
        ada = await scene.stream("users/ada")
        await until(lambda: len(scene.streams) == 1)
        await scene.stop(abruptly=True)
        assert await ada.call.code() is grpc.StatusCode.INTERNAL
        await scene.start_anew()
        scene.use()
        assert len(scene.streams) == 0


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
@pytest.mark.parametrize("key", ["", "x" * 43], ids=["no key", "another key"])
async def test_who_is_not_the_gateway_hears_nothing_that_would_end_a_stream(scene: Scene, key: str) -> None:
    async def silence() -> AsyncIterator[bytes]:
        yield b""

    async with grpc.aio.insecure_channel(where(scene.beside)) as stranger:
        process: Any = stranger.stream_stream(PROCESS)
        told = process(silence(), metadata=((HELD, key),), timeout=10)
        assert await told.code() is grpc.StatusCode.UNAVAILABLE
    assert len(scene.streams) == 0


def test_the_key_between_gateway_and_service_is_kept_and_nobody_else_s_to_read(tmp_path: Path) -> None:
    made = kept_key(tmp_path / "gateway" / "holder.key")
    assert len(made) == 43
    assert kept_key(tmp_path / "gateway" / "holder.key") == made
    assert (tmp_path / "gateway" / "holder.key").stat().st_mode & 0o777 == 0o600
    assert kept_key(tmp_path / "another") != made


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


def told(**claims: Any) -> bytes:
    """What Envoy says of one stream when it opens."""
    request = ProcessingRequest()
    request.request_headers.SetInParent()
    metadata = request.metadata_context.filter_metadata
    metadata["envoy.filters.http.jwt_authn"].update({"claims": {"sub": "users/ada", "iat": 1, **claims}})
    metadata["envoy.filters.http.grpc_field_extraction"].update({"model_name": [MODEL]})
    return request.SerializeToString()


async def test_before_the_routes_are_known_a_revocation_counts_and_a_missing_role_does_not() -> None:
    streams, over = OpenStreams(), asyncio.Event()

    async def requests(**claims: Any) -> AsyncIterator[bytes]:
        yield told(**claims)
        await over.wait()

    stays, goes = (asyncio.ensure_future(streams.watch(requests(jti=each))) for each in ("t-1", "t-2"))
    await until(lambda: len(streams) == 2)
    rules = CallRules(grants={"users/ada": frozenset({ABOVE})}, revoked_tokens=frozenset({"t-2"}))
    streams.use(rules)
    with pytest.raises(Unauthenticated):
        await goes
    streams.follow(Routes(routes=(Route(model=MODEL, targets=(), above=ABOVE),)))
    streams.use(rules)
    assert len(streams) == 1
    streams.use(CallRules())
    with pytest.raises(PermissionDenied):
        await stays
    assert len(streams) == 0


def test_standing_is_what_the_gateway_would_say_now() -> None:
    ada = Who(principal="users/ada", token="t", session="s", issued=100.0, model=MODEL)
    assert standing(GRANTS, ada) is None
    assert standing(replace(GRANTS, revoked_principals={"users/ada": 100.0}), ada) is None  # issued after it
    assert standing(CallRules(grants={"users/ada": frozenset({ABOVE})}), ada) is not None
    assert standing(CallRules(grants={"users/ada": frozenset({ABOVE})}), ada, ABOVE) is None
    assert standing(CallRules(grants={"users/ada": frozenset({"demo.faces"})}), ada) is not None
