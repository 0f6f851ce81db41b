"""The data plane as clients meet it: NVIDIA's own client, through real Envoy, to real Triton replicas."""

import asyncio
import json
import queue
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import pytest_asyncio
import tritonclient.grpc as triton
from cryptography import x509
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from services.agent.replica_settings import ReplicaSettings
from services.inference.envoy import Route, Routes, Target, render, write
from tests.harness.serving import (
    Authority,
    Replica,
    RunningGateway,
    certificate,
    gateway,
    replica,
    samples,
    served_model,
)
from tests.harness.wait import until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
MODEL = "demo.digits"


@dataclass
class Stack:
    """Two replicas of one model behind one gateway."""

    front: RunningGateway
    replicas: list[Replica]

    async def route(self, *replicas: Replica) -> None:
        endpoints = tuple(one.endpoint for one in replicas)
        await self.front.route(Routes(routes=(Route(model=MODEL, targets=(Target(revision=1, endpoints=endpoints),)),)))

    def client(self) -> triton.InferenceServerClient:
        root = str(self.front.gateway.certificate)
        return triton.InferenceServerClient(f"localhost:{self.front.port}", ssl=True, root_certificates=root)

    def channel(self) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self.front.gateway.certificate.read_bytes())
        size = [("grpc.max_receive_message_length", 80 << 20), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"localhost:{self.front.port}", credentials, options=size)

    @property
    def bearer(self) -> dict[str, str]:
        return self.front.authority.bearer("demo")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("gateway")
    settings = ReplicaSettings(check_interval_s=0.2, check_s=1.0)
    async with AsyncExitStack() as exits:
        front = await exits.enter_async_context(gateway(folder / "envoy"))
        models = [served_model(MODEL)]
        replicas = [
            await exits.enter_async_context(replica(folder / f"replica-{index}", models, settings))
            for index in range(2)
        ]
        for one in replicas:
            await one.ready()
        running = Stack(front=front, replicas=replicas)
        await running.route(*replicas)
        yield running


def inputs(x: Any) -> list[triton.InferInput]:
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return [tensor]


def request(x: Any, model: str = MODEL) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return message


async def test_the_flow_of_nvidias_example_clients_passes(stack: Stack) -> None:
    def flow() -> None:
        client, headers = stack.client(), stack.bearer
        assert client.is_server_live(headers=headers)
        assert client.is_server_ready(headers=headers)
        assert client.is_model_ready(MODEL, headers=headers)
        assert client.get_server_metadata(headers=headers).name == "triton"
        assert client.get_model_metadata(MODEL, headers=headers).inputs[0].name == "x"
        assert client.get_model_config(MODEL, headers=headers).config.max_batch_size == 32
        assert client.get_inference_statistics(MODEL, headers=headers).model_stats[0].name == MODEL
        x, logits = samples(4)
        answer = client.infer(MODEL, inputs(x), headers=headers, client_timeout=5)
        np.testing.assert_allclose(answer.as_numpy("logits"), logits, rtol=1e-3, atol=1e-3)

        answers: queue.Queue[Any] = queue.Queue()
        client.async_infer(MODEL, inputs(x), lambda result, error: answers.put(error or result), headers=headers)
        np.testing.assert_allclose(answers.get(timeout=5).as_numpy("logits"), logits, rtol=1e-3, atol=1e-3)

        client.start_stream(lambda result, error: answers.put(error or result), headers=headers)
        for _ in range(3):  # each waits for its answer: nothing holds the stream back until its end
            client.async_stream_infer(MODEL, inputs(x))
            np.testing.assert_allclose(answers.get(timeout=5).as_numpy("logits"), logits, rtol=1e-3, atol=1e-3)
        client.stop_stream()
        client.close()

    await asyncio.to_thread(flow)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda client, other: client.is_server_live(), "UNAUTHENTICATED"),
        (lambda client, other: client.infer(MODEL, inputs(samples(1)[0])), "UNAUTHENTICATED"),
        (lambda client, other: client.infer(MODEL, inputs(samples(1)[0]), headers=other), "NOT_FOUND"),
        (lambda client, other: client.infer("demo.none", inputs(samples(1)[0]), headers=other), "NOT_FOUND"),
        (lambda client, other: client.infer("other.none", inputs(samples(1)[0]), headers=other), "NOT_FOUND"),
        (lambda client, other: client.infer("none", inputs(samples(1)[0]), headers=other), "NOT_FOUND"),
        (lambda client, other: client.infer("", inputs(samples(1)[0]), headers=other), "INVALID_ARGUMENT"),
        (lambda client, other: client.get_inference_statistics(headers=other), "INVALID_ARGUMENT"),
        (lambda client, other: client.load_model(MODEL, headers=other), "PERMISSION_DENIED"),
        (lambda client, other: client.unload_model(MODEL, headers=other), "PERMISSION_DENIED"),
        (lambda client, other: client.get_model_repository_index(headers=other), "PERMISSION_DENIED"),
        (lambda client, other: client.get_system_shared_memory_status(headers=other), "PERMISSION_DENIED"),
        (lambda client, other: client.get_cuda_shared_memory_status(headers=other), "PERMISSION_DENIED"),
        (lambda client, other: client.get_trace_settings(headers=other), "PERMISSION_DENIED"),
        (lambda client, other: client.update_log_settings({}, headers=other), "PERMISSION_DENIED"),
    ],
)
async def test_what_a_caller_may_not_do_is_refused(stack: Stack, call: Callable[..., Any], code: str) -> None:
    """`other` is a good token of another project."""
    client = stack.client()
    with pytest.raises(InferenceServerException) as refused:
        await asyncio.to_thread(call, client, stack.front.authority.bearer("other"))
    assert refused.value.status() == f"StatusCode.{code}"
    client.close()


async def test_what_is_refused_for_a_foreign_model_does_not_tell_whether_it_exists(stack: Stack) -> None:
    x, _ = samples(1)
    headers = tuple(stack.front.authority.bearer("other").items())
    texts = []
    async with stack.channel() as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for name in (MODEL, "demo.nowhere"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await infer(request(x, name), metadata=headers, timeout=5)
            texts.append(str(refused.value.details()).replace(name, "MODEL"))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "token",
    [
        lambda authority: authority.token("demo", audience="other"),
        lambda authority: authority.token("demo", issuer="other"),
        lambda authority: authority.token("demo", lifetime_s=-60),
        lambda authority: authority.token("demo")[:-4],
        lambda authority: type(authority)().token("demo"),
        lambda authority: "e30.e30.",
    ],
    ids=["audience", "issuer", "expired", "signature", "foreign key", "empty"],
)
async def test_a_token_that_does_not_hold_is_refused(stack: Stack, token: Callable[..., str]) -> None:
    """A token for another audience is a good one at the wrong door: Envoy calls that forbidden, not unauthenticated."""
    async with stack.channel() as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata = (("authorization", f"Bearer {token(stack.front.authority)}"),)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=metadata, timeout=5)
    is_elsewhere = "Audiences" in str(refused.value.details())
    expected = grpc.StatusCode.PERMISSION_DENIED if is_elsewhere else grpc.StatusCode.UNAUTHENTICATED
    assert refused.value.code() is expected


async def test_a_principal_of_the_organisation_may_use_every_project(stack: Stack) -> None:
    x, logits = samples(2)
    async with stack.channel() as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        metadata = tuple(stack.front.authority.bearer("*").items())
        answer = await infer(request(x), metadata=metadata, timeout=5)
    actual = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(logits.shape)
    np.testing.assert_allclose(actual, logits, rtol=1e-3, atol=1e-3)


async def test_a_forged_route_header_changes_nothing(stack: Stack) -> None:
    async with stack.channel() as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        metadata = (*stack.front.authority.bearer("other").items(), ("x-lepton-route", MODEL))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await infer(request(samples(1)[0], "other.model"), metadata=metadata, timeout=5)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_replicas_come_and_go_under_load_without_an_error(stack: Stack) -> None:
    x, logits = samples(3)
    failures: list[str] = []
    done, answered = asyncio.Event(), 0
    metadata = tuple(stack.bearer.items())

    async def load(channel: grpc.aio.Channel) -> None:
        nonlocal answered
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        while not done.is_set():
            try:
                answer = await infer(request(x), metadata=metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code()}: {error.details()}")
                continue
            actual = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(logits.shape)
            if not np.allclose(actual, logits, rtol=1e-3, atol=1e-3):
                failures.append("a wrong answer")
            answered += 1

    one, two = stack.replicas
    async with stack.channel() as channel, asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(load(channel))
        for members in ((one,), (one, two), (two,), (one, two)) * 3:
            before = answered
            await stack.route(*members)
            await until(lambda before=before: answered > before + 50, 10)  # type: ignore[misc]
        done.set()
    assert failures == []


@pytest.mark.parametrize("kill", ["SIGKILL", "SIGSTOP"])
async def test_a_replica_that_dies_or_hangs_under_load_costs_no_call(stack: Stack, kill: str) -> None:
    await stack.route(*stack.replicas)
    x, _ = samples(1)
    failures: list[str] = []
    done = asyncio.Event()
    metadata = tuple(stack.bearer.items())

    async def load(channel: grpc.aio.Channel) -> None:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        while not done.is_set():
            try:
                await infer(request(x), metadata=metadata, timeout=15)
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code()}: {error.details()}")

    victim = stack.replicas[0]
    ready = sum(bool(event.endpoints) for event in victim.events)
    async with stack.channel() as channel, asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(load(channel))
        (server,) = psutil.Process(victim.replica.pid).children()
        server.send_signal(getattr(signal, kill))
        await victim.ready(times=ready + 1)
        await stack.route(*stack.replicas)
        done.set()
    assert failures == []


async def test_a_large_message_passes_and_a_larger_one_is_refused(stack: Stack) -> None:
    async with stack.channel() as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        metadata = tuple(stack.bearer.items())
        for mebibytes, expected in ((63, "batch-size must be <= 32"), (66, "larger than the server accepts")):
            x = np.zeros((mebibytes << 12, 1, 8, 8), np.float32)
            with pytest.raises(grpc.aio.AioRpcError, match=expected):
                await infer(request(x), metadata=metadata, timeout=20)


async def test_a_signing_key_is_replaced_under_load_without_an_error(stack: Stack) -> None:
    """The keys stand in a filter of their own: no listener changes, and no connection ends."""
    x, _ = samples(1)
    old, new = stack.front.authority, Authority(key_id="k2")
    both = json.dumps({"keys": [json.loads(one.rules.jwks)["keys"][0] for one in (old, new)]})
    done = asyncio.Event()

    async with stack.channel() as channel, asyncio.TaskGroup() as tasks:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def load() -> None:
            while not done.is_set():
                await infer(request(x), metadata=tuple(old.bearer("demo").items()), timeout=10)

        for _ in range(4):
            tasks.create_task(load())
        gateway = replace(stack.front.gateway, tokens=replace(old.rules, jwks=both))
        routes = Routes(
            routes=(
                Route(
                    model=MODEL, targets=(Target(revision=1, endpoints=tuple(one.endpoint for one in stack.replicas)),)
                ),
            )
        )
        assert write(gateway.directory, render(gateway, routes)) == ["ecds/authn.json"]

        async def is_accepted() -> bool:
            async with stack.channel() as fresh:
                call = service_pb2_grpc.GRPCInferenceServiceStub(fresh).ModelInfer
                try:
                    await call(request(x), metadata=tuple(new.bearer("demo").items()), timeout=5)
                except grpc.aio.AioRpcError:
                    return False
            return True

        await until(is_accepted, 10)
        done.set()
    stack.front.gateway = gateway


async def test_the_identity_is_replaced_without_a_restart(stack: Stack) -> None:
    def served() -> int:
        pem = ssl.get_server_certificate(("127.0.0.1", stack.front.port), timeout=5)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    before = await asyncio.to_thread(served)
    certificate(stack.front.gateway.directory)

    async def is_new() -> bool:
        return await asyncio.to_thread(served) != before

    await until(is_new, 10)
    assert stack.front.process.returncode is None


async def test_the_access_log_says_who_called_what_and_holds_no_token(stack: Stack) -> None:
    headers = stack.bearer
    x, _ = samples(1)
    async with stack.channel() as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        await infer(request(x), metadata=tuple(headers.items()), timeout=5)
    log = stack.front.gateway.access_log
    await until(lambda: '"grpc_status":"OK"' in log.read_text(), 15)
    lines = [line for line in stack.front.access_log() if line["model"] == MODEL]
    assert lines[-1]["principal"] == "users/ada"
    assert lines[-1]["method"] == "/inference.GRPCInferenceService/ModelInfer"
    assert headers["authorization"].rpartition(".")[2] not in log.read_text()


async def test_nobody_outside_this_machine_reaches_a_replica(stack: Stack) -> None:
    for one in stack.replicas:
        server = psutil.Process(one.replica.pid)
        listening = [
            socket.laddr
            for process in (server, *server.children(recursive=True))
            for socket in process.net_connections(kind="inet")
            if socket.status == psutil.CONN_LISTEN
        ]
        assert one.endpoint.port in {address.port for address in listening}
        assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


async def test_an_emptied_route_table_answers_not_found(stack: Stack, tmp_path: Path) -> None:
    await stack.front.route(Routes())
    x, _ = samples(1)
    metadata = tuple(stack.bearer.items())
    async with stack.channel() as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def code(call: Any) -> grpc.StatusCode:
            try:
                await call
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        async def is_gone() -> bool:
            return await code(stub.ModelInfer(request(x), metadata=metadata, timeout=5)) is grpc.StatusCode.NOT_FOUND

        await until(is_gone, 10)
        live = stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=metadata, timeout=5)
        assert await code(live) is grpc.StatusCode.UNAVAILABLE
    await stack.route(*stack.replicas)
