"""How much a deployment's callers may ask: rates, calls in flight, deadlines, sizes; refused with a reason."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from tritonclient.grpc import service_pb2

from lepton.errors import DETAILS_KEY
from services.inference.envoy import Route, RouteLimits, Routes, Target
from tests.harness.gateway_caller import Caller, channel
from tests.harness.named_replica import NamedReplica, named_replica
from tests.harness.serving import RunningGateway, gateway
from tests.harness.wait import until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
MODEL, FREE = "demo.digits", "demo.free"


@dataclass
class Gate:
    """A gateway before a limited model and one that is not."""

    front: RunningGateway
    one: NamedReplica
    ada: Caller
    root: Caller

    async def limit(self, limits: RouteLimits) -> None:
        """Limits the model, and waits until nothing of an earlier limit is left."""
        target = Target(revision=1, endpoints=(self.one.endpoint,))
        routes = (Route(model=MODEL, targets=(target,), limits=limits), Route(model=FREE, targets=(target,)))
        before = await self.reloads()
        await self.front.route(Routes(routes=routes))
        if self.limits != limits:
            self.limits = limits
            await until(lambda: self.is_reloaded(before))
        assert await self.front.admin.rejected() == frozenset()

    limits: RouteLimits | None = None

    async def reloads(self) -> int:
        names = ("extension_config_discovery.http_filter.limits.config_reload", "http.gateway.rds.models.config_reload")
        return sum([await self.front.admin.counter(name) for name in names])

    async def is_reloaded(self, before: int) -> bool:
        return await self.reloads() > before


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with AsyncExitStack() as exits:
        folder = tmp_path_factory.mktemp("limits") / "envoy"
        front = await exits.enter_async_context(gateway(folder, max_message_bytes=4 << 20))
        one = await exits.enter_async_context(named_replica("one"))
        connection = await exits.enter_async_context(channel(front))
        token = front.authority.token
        yield Gate(front, one, Caller.of(connection, token("demo")), Caller.of(connection, token("*")))


async def refusals(caller: Caller, model: str, count: int) -> Counter[tuple[str, str]]:
    return Counter([await caller.refused(model) for _ in range(count)])


LIMITED = ("RESOURCE_EXHAUSTED", "RATE_LIMITED")


async def test_each_caller_has_a_rate_of_their_own_and_other_models_have_none(gate: Gate) -> None:
    await gate.limit(RouteLimits(requests_per_s_per_caller=0.1, burst_s=50))  # five at once, then one in ten seconds

    async def is_limited() -> bool:
        return await gate.ada.refused(MODEL) == LIMITED

    await until(is_limited)
    found = await refusals(gate.root, MODEL, 12)
    assert 5 <= found["OK", ""] <= 6, found
    assert found[LIMITED] == 12 - found["OK", ""]
    assert await refusals(gate.ada, FREE, 30) == {("OK", ""): 30}


async def test_all_callers_together_have_a_rate(gate: Gate) -> None:
    await gate.limit(RouteLimits(requests_per_s=0.1, burst_s=60))

    async def is_limited() -> bool:
        return await gate.ada.refused(MODEL) == LIMITED

    await until(is_limited)
    assert await gate.root.refused(MODEL) == LIMITED


async def test_a_rate_refills_and_the_refusal_says_when(gate: Gate) -> None:
    await gate.limit(RouteLimits(requests_per_s=20, burst_s=0.1))

    async def flood() -> None:
        while True:
            await asyncio.gather(*(gate.ada.infer(MODEL) for _ in range(20)))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await flood()
    metadata = dict(refused.value.trailing_metadata() or ())
    assert metadata["retry-after"] == "1"
    status = Status.FromString(metadata[DETAILS_KEY])  # type: ignore[arg-type]
    assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)
    assert "wait" in str(refused.value.details())

    async def passes_again() -> bool:
        return await gate.ada.refused(MODEL) == ("OK", "")

    await until(passes_again)


async def test_more_than_the_calls_in_flight_are_refused_and_the_others_answered(gate: Gate) -> None:
    await gate.limit(RouteLimits(max_in_flight=3))

    async def is_unlimited() -> bool:
        return await gate.ada.refused(MODEL) == ("OK", "")

    await until(is_unlimited)
    gate.one.gate.clear()
    try:
        async with asyncio.TaskGroup() as tasks:
            held = [tasks.create_task(gate.ada.infer(MODEL, timeout=30)) for _ in range(3)]
            await until(lambda: gate.one.waiting == 3)
            assert await gate.root.refused(MODEL) == ("RESOURCE_EXHAUSTED", "TOO_MANY_IN_FLIGHT")
            free = tasks.create_task(gate.root.infer(FREE, timeout=30))
            await until(lambda: gate.one.waiting == 4)
            gate.one.gate.set()
    finally:
        gate.one.gate.set()
    assert [task.result().message.id for task in (*held, free)] == ["one"] * 4
    assert await gate.root.refused(MODEL) == ("OK", "")


async def test_a_deployments_deadline_ends_a_call_that_brings_a_longer_one(gate: Gate) -> None:
    await gate.limit(RouteLimits(max_deadline_s=0.3))
    gate.one.gate.clear()
    try:

        async def ended() -> bool:
            began = time.monotonic()
            code, _ = await gate.ada.refused(MODEL, timeout=60)  # by the replica, which is told, or by the gateway
            return code == "DEADLINE_EXCEEDED" and time.monotonic() - began < 30

        await until(ended, 40)
        free = asyncio.ensure_future(gate.ada.refused(FREE, timeout=30))
        await until(lambda: gate.one.waiting == 1)
        gate.one.gate.set()
        assert await free == ("OK", ""), "the control: another deployment has no such limit"
    finally:
        gate.one.gate.set()


async def test_a_stream_ends_with_its_longest_life(gate: Gate) -> None:
    await gate.limit(RouteLimits(max_stream_s=0.5))

    async def ended() -> bool:
        stream = gate.ada.stub.ModelStreamInfer(metadata=gate.ada.metadata, timeout=60)
        await stream.write(service_pb2.ModelInferRequest(model_name=MODEL))
        first = await stream.read()
        assert first.infer_response.id == "one"
        try:
            await stream.read()
        except grpc.aio.AioRpcError as error:
            # A stream that has begun can only be cut: there is no answer left that a reason could be put into.
            return error.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL}
        return False

    await until(ended, 90)


async def test_a_message_that_is_too_large_is_refused_with_the_reason(gate: Gate) -> None:
    await gate.limit(RouteLimits())
    rows = (6 << 20) // 256
    assert await gate.ada.refused(MODEL, rows=rows) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert await gate.ada.refused(MODEL, rows=rows // 2) == ("OK", "")
