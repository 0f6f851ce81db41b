"""Calls of a model that sleeps: held by the holder behind a real Envoy, passed to a real Triton once it is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.clock import SystemClock
from lepton.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LeptonError,
    ResourceExhausted,
    Unavailable,
    from_rpc_error,
)
from lepton.inference.v1.autoscaling_pb2 import Autoscaling
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.rollout_pb2 import RolloutStatus
from services.inference.autoscaling.triton_metrics import ReplicaQueues
from services.inference.envoy import Route, Routes, Target, render, write
from services.inference.held_calls import Held
from services.inference.holder import HELD, Holder, _Call
from tests.harness.serving import Replica, RunningGateway, gateway, replica, samples, served_model
from tests.harness.wait import until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
MODEL = "demo.digits"
KEY = "k" * 43
LINEAGE = (("lepton-model-version", "sha256:" + "a" * 64),)


@dataclass
class Waker:
    """Remembers who was to be woken; wakes nobody by itself."""

    marked: list[str] = field(default_factory=list)
    answers: bool = True

    async def wake(self, deployment: str) -> bool:
        self.marked.append(deployment)
        return self.answers


@dataclass
class Stack:
    """A gateway, a holder and one replica that gets calls when the test says so."""

    front: RunningGateway
    holder: Holder
    waker: Waker
    replica: Replica

    async def put(self, *, is_awake: bool, has_holder: bool = True, **wish: Any) -> None:
        """Routes as the inference service writes them."""
        endpoints = (replace(self.replica.endpoint, engine="onnxruntime"),) if is_awake else ()
        target = Target(revision=1, endpoints=endpoints, lineage=LINEAGE)
        routes = Routes(
            routes=(Route(model=MODEL, targets=(target,), holder=self.holder.endpoint if has_holder else None),)
        )
        targets = [RolloutStatus.Target(revision=1, weight=100)]
        deployment = Deployment(
            name="projects/demo/deployments/digits",
            model_name=MODEL,
            state=Deployment.READY,
            autoscaling=Autoscaling(max_replicas=2, **wish),
            rollout=RolloutStatus(targets=targets),
        )
        self.holder.use(routes, {deployment.name: deployment})
        write(self.front.gateway.directory, render(self.front.gateway, routes))

        async def is_followed() -> bool:
            return (await self.front.admin.healthy()).get(f"{MODEL}@r1") == frozenset(endpoints)

        if has_holder or is_awake:
            await until(is_followed, 15)

    def channel(self) -> aio.Channel:
        certificate = self.front.gateway.certificate.read_bytes()
        return aio.secure_channel(f"localhost:{self.front.port}", grpc.ssl_channel_credentials(certificate))

    def metadata(self, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        return (*self.front.authority.bearer("demo").items(), *more)

    def infer(self, stub: Any, rows: int = 1, timeout: float = 30, **options: Any) -> Any:
        return stub.ModelInfer(request(rows), metadata=self.metadata(), timeout=timeout, **options)


def request(rows: int = 1) -> service_pb2.ModelInferRequest:
    x, _ = samples(rows)
    made = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[x.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=list(x.shape))
    return made


def is_right(answer: service_pb2.ModelInferResponse, rows: int = 1) -> bool:
    _, logits = samples(rows)
    found = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(logits.shape)
    return bool(np.allclose(found, logits, rtol=1e-3, atol=1e-3))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("holder")
    waker = Waker()
    async with AsyncExitStack() as opened:
        running = await opened.enter_async_context(replica(folder / "replica", [served_model(MODEL)]))
        holder = await opened.enter_async_context(
            Holder(waker, SystemClock(), address="127.0.0.1:0", key=KEY, held_bytes=1 << 30)
        )
        front = await opened.enter_async_context(gateway(folder / "gateway", holder_key=KEY))
        await running.ready()
        yield Stack(front, holder, waker, running)


@pytest_asyncio.fixture(loop_scope="module")
async def stub(stack: Stack) -> AsyncIterator[Any]:
    stack.waker.marked.clear()
    stack.waker.answers = True
    async with stack.channel() as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
    await until(lambda: not stack.holder.held())


async def refusal(call: Any) -> LeptonError:
    with pytest.raises(aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)


async def test_calls_are_held_until_a_replica_is_there_and_then_answered(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=False)
    calls = [stack.infer(stub, rows) for rows in (1, 2, 3, 4, 5)]
    waiting = [asyncio.ensure_future(_answer(each)) for each in calls]
    await until(lambda: stack.holder.held() == {MODEL: 5})
    assert set(stack.waker.marked) == {"projects/demo/deployments/digits"}
    await stack.put(is_awake=True)
    answers = await asyncio.gather(*waiting)
    assert all(is_right(answer, rows) for rows, answer in enumerate(answers, start=1))
    trailers = dict(await calls[0].trailing_metadata())
    assert trailers["lepton-model-version"] == LINEAGE[0][1], "as every answer of the gateway"
    assert trailers["lepton-engine"] == "onnxruntime"
    assert is_right(await stack.infer(stub)), "and the next call goes to the replica"


async def test_without_a_holder_the_same_call_fails(stack: Stack, stub: Any) -> None:
    """The negative control of the former."""
    await stack.put(is_awake=False, has_holder=False)

    async def is_refused() -> bool:
        return (await refusal(stack.infer(stub))).reason == "NO_REPLICA"

    await until(is_refused)
    assert stack.waker.marked == []


async def test_streams_are_held_too(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=False)

    async def messages() -> AsyncIterator[service_pb2.ModelInferRequest]:
        for rows in (1, 2, 3):
            yield request(rows)

    answers = stub.ModelStreamInfer(messages(), metadata=stack.metadata(), timeout=30)
    reading = asyncio.ensure_future(_all(answers))
    await until(lambda: stack.holder.held() == {MODEL: 1})
    await stack.put(is_awake=True)
    found = await reading
    assert [each.error_message for each in found] == ["", "", ""]
    assert all(is_right(each.infer_response, rows) for rows, each in enumerate(found, start=1))


async def test_metadata_of_the_model_wakes_it_too(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=False)
    asked = service_pb2.ModelMetadataRequest(name=MODEL)
    waiting = asyncio.ensure_future(_answer(stub.ModelMetadata(asked, metadata=stack.metadata(), timeout=30)))
    await until(lambda: stack.holder.held() == {MODEL: 1})
    await stack.put(is_awake=True)
    assert (await waiting).name == MODEL


async def test_more_calls_than_may_be_held_are_refused_with_the_time_to_retry(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=False, held_requests=2)
    held = [asyncio.ensure_future(_answer(stack.infer(stub))) for _ in range(2)]
    await until(lambda: stack.holder.held() == {MODEL: 2})
    refused = await refusal(stack.infer(stub))
    assert isinstance(refused, ResourceExhausted)
    assert (refused.reason, refused.retry_after_s) == ("HELD_CALLS_FULL", 1.0)
    assert refused.metadata["deployment"] == "projects/demo/deployments/digits"
    await stack.put(is_awake=True, held_requests=2)
    assert all(is_right(each) for each in await asyncio.gather(*held))


async def test_more_bytes_than_may_be_held_are_refused(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=False, held_bytes=1000)
    held = asyncio.ensure_future(_answer(stack.infer(stub, rows=1)))
    await until(lambda: stack.holder.held() == {MODEL: 1})
    assert (await refusal(stack.infer(stub, rows=30))).reason == "HELD_CALLS_FULL"
    await stack.put(is_awake=True)
    await held


async def test_a_deadline_ends_the_wait(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=False)
    with pytest.raises(aio.AioRpcError) as refused:
        await stack.infer(stub, timeout=0.3)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: not stack.holder.held())


class Late:
    """A call whose deadline has passed, of which gRPC has not told yet."""

    def done(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return -0.1


async def test_a_call_whose_deadline_has_passed_does_not_hold_up_all_others(stack: Stack, stub: Any) -> None:
    """It once asked for the event again and again without waiting, until the patience of its deployment was over."""
    await stack.put(is_awake=False)
    call = _Call(method="", model=MODEL, revision=1, metadata=(), first=b"")
    with pytest.raises(DeadlineExceeded):
        await stack.holder._replica(call, Held(since=SystemClock().monotonic()), Late(), frozenset())


async def test_a_replica_that_never_comes_is_told_with_its_reason(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=False, cold_start_patience=Duration(nanos=300_000_000))
    refused = await refusal(stack.infer(stub))
    assert isinstance(refused, Unavailable)
    assert refused.reason == "NOT_AWAKE"
    assert "READY" in refused.metadata["why"]


async def test_a_store_that_does_not_answer_is_asked_again(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=False)
    stack.waker.answers = False
    waiting = asyncio.ensure_future(_answer(stack.infer(stub)))
    await until(lambda: len(stack.waker.marked) >= 2)
    await stack.put(is_awake=True)
    assert is_right(await waiting)


async def test_whoever_comes_past_the_gateway_is_not_answered(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=True)
    here = f"{stack.holder.endpoint.host}:{stack.holder.endpoint.port}"
    async with aio.insecure_channel(here) as channel:
        past = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for given in ((), ((HELD, f"wrong {MODEL}@r1"),), ((HELD, f"{KEY} nonsense"),)):
            refused = await refusal(past.ModelInfer(request(), metadata=given, timeout=5))
            assert refused.code is grpc.StatusCode.UNAUTHENTICATED
    forged = stack.metadata((HELD, f"{KEY} other.model@r1"))
    assert is_right(await stub.ModelInfer(request(), metadata=forged, timeout=5)), "the gateway says it anew"


@pytest.mark.parametrize("address", ["0.0.0.0:0", "10.0.0.1:80", "example.com:1", "127.0.0.1"])
async def test_it_listens_on_loopback_only(address: str) -> None:
    with pytest.raises(InvalidArgument, match="loopback"):
        Holder(Waker(), SystemClock(), address=address, key=KEY, held_bytes=1)


async def test_a_real_replica_tells_its_queue(stack: Stack, stub: Any) -> None:
    await stack.put(is_awake=True)
    metrics = next(each.endpoints["metrics"] for each in stack.replica.events if "metrics" in each.endpoints)
    queues, clock = ReplicaQueues(), SystemClock()
    await queues.look([metrics], clock.monotonic())

    async def has_told() -> bool:
        """Triton counts a request after it was answered."""
        await asyncio.gather(*(_answer(stack.infer(stub)) for _ in range(20)))
        seen = await queues.look([metrics], clock.monotonic())
        return bool(seen.queue_delay_s and 0 < seen.queue_delay_s < 5 and seen.busy and 0 < seen.busy <= 1)

    await until(has_told)


async def _answer(call: Any) -> Any:
    return await call


async def _all(call: Any) -> list[Any]:
    return [each async for each in call]
