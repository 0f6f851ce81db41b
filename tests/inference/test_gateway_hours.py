"""A grant for hours at a real Envoy: calls and open streams within the window go, and end with it; others go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from chassis.access import Binding, PolicySnapshot
from chassis.clock import SystemClock
from chassis.conditions import Condition, Window
from services.inference.call_hours import CallHours
from services.inference.envoy import Route, Routes, Target, render, write
from services.inference.envoy.access import CallRules
from services.inference.holder import Holder
from services.inference.open_streams import OpenStreams
from tests.harness.clock import ManualClock
from tests.harness.gateway_caller import Caller, channel
from tests.harness.named_replica import named_replica
from tests.harness.serving import RunningGateway, gateway
from tests.harness.wait import until

pytestmark = pytest.mark.integration
in_module = pytest.mark.asyncio(loop_scope="module")
MODEL = "demo.digits"
KEY = "k" * 43
NIGHT = Window(start=22 * 60, end=6 * 60, zone="Europe/Berlin")
DORA, ALICE = "users/dora", "users/alice"
POLICY = PolicySnapshot(
    revision=1,
    roles={"roles/viewer": frozenset({"deployments.get"})},
    bindings=(
        Binding(principal=DORA, role="roles/viewer", scope="projects/demo", condition=Condition(windows=(NIGHT,))),
        Binding(principal=ALICE, role="roles/viewer", scope="projects/demo"),
    ),
    issuer="lepton",
    audience="lepton",
)


class Nobody:
    """Wakes nothing."""

    async def wake(self, deployment: str) -> bool:
        return True


@dataclass
class Scene:
    """A gateway whose rules come from a policy with hours, by a clock that the test moves."""

    front: RunningGateway
    routes: Routes
    streams: OpenStreams
    connection: grpc.aio.Channel

    def hours(self, now: str) -> tuple[ManualClock, CallHours]:
        clock = ManualClock(datetime.fromisoformat(now).replace(tzinfo=UTC))
        made = CallHours(clock)
        made.on_change(self._publish)
        made.use(POLICY)
        return clock, made

    def _publish(self, _: PolicySnapshot, rules: CallRules) -> None:
        self.streams.use(rules)
        configured = replace(self.front.gateway, tokens=replace(self.front.gateway.tokens, calls=rules))
        write(configured.directory, render(configured, self.routes))

    def caller(self, who: str) -> Caller:
        return Caller.of(self.connection, self.front.authority.token(subject=who, jti=who, sid=who))

    async def answers(self, who: str, code: str) -> None:
        """Waits until calls are answered so: Envoy follows its files a moment later."""

        async def is_so() -> bool:
            return (await self.caller(who).refused(MODEL))[0] == code

        await until(is_so)

    async def stream(self, who: str) -> Any:
        caller = self.caller(who)
        call = caller.stub.ModelStreamInfer(metadata=caller.metadata, timeout=60)
        await asks(call)
        return call


async def asks(call: Any) -> None:
    await call.write(service_pb2.ModelInferRequest(model_name=MODEL, id="1"))
    assert (await call.read()).infer_response.id == "one"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as exits:
        streams = OpenStreams()
        holder = await exits.enter_async_context(
            Holder(Nobody(), SystemClock(), address="127.0.0.1:0", key=KEY, held_bytes=1 << 20, streams=streams)
        )
        folder = tmp_path_factory.mktemp("hours") / "envoy"
        front = await exits.enter_async_context(gateway(folder, holder_key=KEY, streams=holder.endpoint))
        one = await exits.enter_async_context(named_replica("one"))
        routes = Routes(routes=(Route(model=MODEL, targets=(Target(revision=1, endpoints=(one.endpoint,)),)),))
        await front.route(routes)
        streams.follow(routes)
        yield Scene(front, routes, streams, await exits.enter_async_context(channel(front)))


@in_module
async def test_calls_and_streams_go_within_the_window_and_end_with_it(scene: Scene) -> None:
    clock, made = scene.hours("2026-06-08T19:59:00")  # 21:59 in Berlin
    running = asyncio.create_task(made.run())
    await scene.answers(ALICE, "OK")
    await scene.answers(DORA, "PERMISSION_DENIED")
    await clock.advance(60)  # 22:00
    await scene.answers(DORA, "OK")
    windowed, free = await scene.stream(DORA), await scene.stream(ALICE)
    await until(lambda: len(scene.streams) == 2)
    await clock.advance(8 * 3600 - 60)  # 05:59, a day later there
    await asks(windowed)
    assert (await scene.caller(DORA).refused(MODEL))[0] == "OK"
    await clock.advance(60)  # 06:00
    assert await windowed.code() is not grpc.StatusCode.OK
    await scene.answers(DORA, "PERMISSION_DENIED")
    await asks(free)
    await scene.answers(ALICE, "OK")
    free.cancel()
    running.cancel()


@in_module
async def test_without_the_watch_both_outlive_the_window(scene: Scene) -> None:
    """The negative control: the policy is the same, so nobody writes other rules."""
    clock, _ = scene.hours("2026-06-09T03:59:00")  # 05:59 in Berlin
    await scene.answers(DORA, "OK")
    windowed = await scene.stream(DORA)
    await clock.advance(3600)
    await asks(windowed)
    assert (await scene.caller(DORA).refused(MODEL))[0] == "OK"
    windowed.cancel()
