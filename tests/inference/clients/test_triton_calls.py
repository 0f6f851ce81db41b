"""What NVIDIA's example clients do, with NVIDIA's client: sync, async, asyncio and streams, through the gateway."""

import asyncio
import queue
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import aio, service_pb2
from tritonclient.utils import InferenceServerException

from tests.inference.clients.example_models import PROJECT, deployed
from tests.inference.clients.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(60)]
ONE, OTHER = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
Client = triton.InferenceServerClient


def client(stack: Stack, **settings: Any) -> Client:
    return Client(stack.address, ssl=True, root_certificates=str(stack.certificate), **settings)


async def in_thread(stack: Stack, flow: Callable[[Client, dict[str, str]], None], **settings: Any) -> None:
    """The flow with a client of its own; the client blocks, and the test's loop must not."""

    def run() -> None:
        with client(stack, **settings) as opened:
            flow(opened, stack.bearer)

    await asyncio.to_thread(run)


def tensor(name: str, values: Any, kind: str) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), kind)
    made.set_data_from_numpy(values)
    return made


def pair(one: Any = ONE, other: Any = OTHER, kind: str = "INT32") -> list[triton.InferInput]:
    return [tensor("INPUT0", one, kind), tensor("INPUT1", other, kind)]


def check(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), ONE + OTHER)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), ONE - OTHER)


def failure(call: Callable[..., Any], *arguments: Any, **given: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as refused:
        call(*arguments, **given)
    return str(refused.value.status()).removeprefix("StatusCode."), str(refused.value.message())


async def test_inference_with_and_without_named_outputs(stack: Stack) -> None:
    def flow(opened: Client, headers: dict[str, str]) -> None:
        outputs = [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
        given = {"headers": {**headers, "test": "1"}, "client_timeout": 10.0}
        for _ in range(3):  # the objects are used again and again
            check(opened.infer(deployed("simple"), pair(), outputs=outputs, **given))
        check(opened.infer(deployed("simple"), pair(), outputs=None, model_version="1", **given))
        one = opened.infer(deployed("simple"), pair(), outputs=outputs[:1], request_id="mine", priority=1, **given)
        assert (one.get_response().id, one.as_numpy("OUTPUT1")) == ("mine", None)
        assert len(opened.get_inference_statistics(deployed("simple"), headers=headers).model_stats) == 1

    await in_thread(stack, flow)


async def test_health_metadata_configuration_and_statistics(stack: Stack) -> None:
    def flow(opened: Client, headers: dict[str, str]) -> None:
        assert opened.is_server_live(headers=headers)
        assert opened.is_server_ready(headers=headers)
        assert opened.is_model_ready(deployed("simple"), "1", headers=headers)
        assert "model_configuration" in opened.get_server_metadata(headers=headers).extensions
        about = opened.get_model_metadata(deployed("simple"), headers=headers, as_json=True)
        assert about["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": ["-1", "16"]}
        assert opened.get_model_config(deployed("simple"), headers=headers).config.max_batch_size == 8
        before = opened.get_inference_statistics(deployed("simple"), headers=headers).model_stats[0].inference_count
        check(opened.infer(deployed("simple"), pair(), headers=headers))
        after = opened.get_inference_statistics(deployed("simple"), "1", headers=headers).model_stats[0]
        assert after.inference_count == before + 1

    await in_thread(stack, flow)


async def test_a_model_that_is_not_there_is_said_in_tritons_words(stack: Stack) -> None:
    """NVIDIA's clients look for these words."""

    def flow(opened: Client, headers: dict[str, str]) -> None:
        for call in (opened.get_model_metadata, opened.get_model_config, opened.is_model_ready):
            code, text = failure(call, f"{PROJECT}.wrong-model-name", headers=headers)
            assert code == "NOT_FOUND"
            assert "Request for unknown model" in text
        assert failure(opened.infer, deployed("simple"), pair(), model_version="9", headers=headers)[0] == "NOT_FOUND"

    await in_thread(stack, flow)


async def test_asynchronous_inference_and_its_cancellation(stack: Stack) -> None:
    def flow(opened: Client, headers: dict[str, str]) -> None:
        answers: queue.Queue[Any] = queue.Queue()
        for _ in range(8):
            opened.async_infer(
                deployed("simple"), pair(), lambda result, error: answers.put(error or result), headers=headers
            )
        for _ in range(8):
            check(answers.get(timeout=20))
        opened.async_infer(deployed("simple"), pair(), lambda result, error: None, headers=headers).cancel()
        check(opened.infer(deployed("simple"), pair(), headers=headers))

    await in_thread(stack, flow)


async def test_texts_of_any_length(stack: Stack) -> None:
    def flow(opened: Client, headers: dict[str, str]) -> None:
        texts = [
            np.array([str(x).encode() for x in each.ravel()], dtype=object).reshape(1, 16) for each in (ONE, OTHER)
        ]
        result = opened.infer(deployed("simple_string"), pair(*texts, kind="BYTES"), headers=headers)
        assert [int(x) for x in result.as_numpy("OUTPUT0").ravel()] == list((ONE + OTHER).ravel())
        words = np.array([b"", "völlig".encode(), b"\x00\xff" * 500, b"x" * 100_000], dtype=object).reshape(1, 4)
        result = opened.infer(deployed("simple_identity"), [tensor("INPUT0", words, "BYTES")], headers=headers)
        assert list(result.as_numpy("OUTPUT0").ravel()) == list(words.ravel())

    await in_thread(stack, flow)


@pytest.mark.parametrize(("model", "kind"), [("simple", "INT32"), ("simple_int8", "INT8"), ("simple_string", "BYTES")])
async def test_typed_contents_instead_of_raw_ones(stack: Stack, model: str, kind: str) -> None:
    request = service_pb2.ModelInferRequest(model_name=deployed(model))
    for name, values in (("INPUT0", range(16)), ("INPUT1", [1] * 16)):
        given = request.inputs.add(name=name, datatype=kind, shape=[1, 16])
        if kind == "BYTES":
            given.contents.bytes_contents.extend(str(x).encode() for x in values)
        else:
            given.contents.int_contents.extend(values)

    def flow(opened: Client, headers: dict[str, str]) -> None:
        answer = opened._client_stub.ModelInfer(request, metadata=tuple(headers.items()), timeout=10)
        result = triton.InferResult(answer).as_numpy("OUTPUT0").ravel()
        assert [int(x) for x in result] == [x + 1 for x in range(16)]

    await in_thread(stack, flow)


@pytest.mark.parametrize("model", ["simple_sequence", "simple_dyna_sequence"])
async def test_sequences_call_by_call_and_in_a_stream(stack: Stack, model: str) -> None:
    values = [11, 7, 5, 3, 2, 0, 1]

    def parts(sequence: int, start: int, sign: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        every = [start, *(sign * value for value in values)]
        for at, value in enumerate(every):
            options = {"sequence_id": sequence, "sequence_start": at == 0, "sequence_end": at == len(every) - 1}
            yield [tensor("INPUT", np.full((1, 1), value, np.int32), "INT32")], options

    def expected(sequence: int, start: int, sign: int) -> list[int]:
        answers = [start + 1, *(sign * value for value in values)]
        return [*answers[:-1], answers[-1] + sequence] if "dyna" in model else answers

    def flow(opened: Client, headers: dict[str, str]) -> None:
        for sequence, start, sign in ((1000, 0, 1), (1001, 100, -1)):
            results = [opened.infer(deployed(model), x, headers=headers, **o) for x, o in parts(sequence, start, sign)]
            assert [int(r.as_numpy("OUTPUT")[0, 0]) for r in results] == expected(sequence, start, sign)
        answers: queue.Queue[Any] = queue.Queue()
        opened.start_stream(lambda result, error: answers.put(error or result), headers=headers)
        for sequence, start, sign in ((1002, 0, 1), (1003, 100, -1)):
            for x, options in parts(sequence, start, sign):
                opened.async_stream_infer(deployed(model), x, request_id=str(sequence), **options)
        found: dict[int, list[int]] = {1002: [], 1003: []}
        for _ in range(16):
            answer = answers.get(timeout=20)
            assert not isinstance(answer, InferenceServerException), answer
            found[int(answer.get_response().id)].append(int(answer.as_numpy("OUTPUT")[0, 0]))
        opened.stop_stream()
        assert found == {1002: expected(1002, 0, 1), 1003: expected(1003, 100, -1)}

    await in_thread(stack, flow)


async def test_one_request_with_many_answers_and_an_end_that_the_client_chooses(stack: Stack) -> None:
    def flow(opened: Client, headers: dict[str, str]) -> None:
        answers: queue.Queue[Any] = queue.Queue()
        opened.start_stream(lambda result, error: answers.put(error or result), headers=headers)
        ask = partial(opened.async_stream_infer, deployed("repeat_int32"))
        ask(repeated(10, delay_ms=2))
        assert [int(answers.get(timeout=20).as_numpy("OUT")[0]) for _ in range(10)] == list(range(100, 110))
        ask(repeated(1000, delay_ms=20))
        answers.get(timeout=20)
        opened.stop_stream(cancel_requests=True)
        check(opened.infer(deployed("simple"), pair(), headers=headers))

    await in_thread(stack, flow)


def repeated(count: int, delay_ms: int) -> list[triton.InferInput]:
    values = np.arange(100, 100 + count, dtype=np.int32)
    delays, wait = np.full(count, delay_ms, np.uint32), np.array([0], np.uint32)
    return [tensor("IN", values, "INT32"), tensor("DELAY", delays, "UINT32"), tensor("WAIT", wait, "UINT32")]


async def test_a_stream_that_brings_a_bad_request_hears_of_it_and_goes_on(stack: Stack) -> None:
    def flow(opened: Client, headers: dict[str, str]) -> None:
        answers: queue.Queue[Any] = queue.Queue()
        opened.start_stream(lambda result, error: answers.put(error or result), headers=headers)
        opened.async_stream_infer(deployed("simple"), pair()[:1])
        assert "expected 2 inputs but got 1" in str(answers.get(timeout=20))
        opened.async_stream_infer(deployed("simple"), pair())
        check(answers.get(timeout=20))
        opened.stop_stream()

    await in_thread(stack, flow)


async def test_keepalive_and_arguments_of_the_channel(stack: Stack) -> None:
    def flow(opened: Client, headers: dict[str, str]) -> None:
        check(opened.infer(deployed("simple"), pair(), headers=headers))

    every_ten_seconds = triton.KeepAliveOptions(keepalive_time_ms=10_000, keepalive_permit_without_calls=True)
    await in_thread(stack, flow, keepalive_options=every_ten_seconds)
    await in_thread(
        stack, flow, channel_args=[("grpc.max_send_message_length", 1 << 20), ("grpc.lb_policy_name", "pick_first")]
    )


@pytest.mark.parametrize("memory", ["system", "cuda"])
async def test_shared_memory_is_refused_cleanly(stack: Stack, memory: str) -> None:
    def flow(opened: Client, headers: dict[str, str]) -> None:
        key = {"system": "/region", "cuda": b"aGFuZGxl"}[memory]
        where = (key, 64) if memory == "system" else (key, 0, 64)
        for verb, arguments in (("register", ("region", *where)), ("unregister", ("region",))):
            code, text = failure(getattr(opened, f"{verb}_{memory}_shared_memory"), *arguments, headers=headers)
            assert code == "PERMISSION_DENIED"
            assert "send tensors in the message" in text
        status = getattr(opened, f"get_{memory}_shared_memory_status")
        assert failure(status, headers=headers)[0] == "PERMISSION_DENIED"
        x, y = pair()
        x.set_shared_memory("region", 64)
        code, text = failure(opened.infer, deployed("simple"), [x, y], headers=headers)
        assert (code, "region" in text) == ("NOT_FOUND", True)
        check(opened.infer(deployed("simple"), pair(), headers=headers))

    await in_thread(stack, flow)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_compressed_requests_are_refused_with_what_to_do(stack: Stack, algorithm: str) -> None:
    """The gateway reads the model's name in the message, which it cannot when that is compressed."""

    def flow(opened: Client, headers: dict[str, str]) -> None:
        wide = np.zeros((8, 1000), np.float32)
        given = [tensor("INPUT0", wide, "FP32")]
        code, text = failure(
            opened.infer, deployed("identity_fp32"), given, headers=headers, compression_algorithm=algorithm
        )
        assert code == "UNIMPLEMENTED"
        assert "uncompressed" in text
        assert opened.infer(deployed("identity_fp32"), given, headers=headers).as_numpy("OUTPUT0").shape == (8, 1000)

    await in_thread(stack, flow)


async def test_the_client_for_asyncio(stack: Stack) -> None:
    async with aio.InferenceServerClient(stack.address, ssl=True, root_certificates=str(stack.certificate)) as opened:
        headers = stack.bearer
        assert await opened.is_server_live(headers=headers)
        assert await opened.is_model_ready(deployed("simple"), headers=headers)
        calls = [opened.infer(deployed("simple"), pair(), headers=headers) for _ in range(16)]
        for result in await asyncio.gather(*calls):
            check(result)

        async def requests() -> Any:
            for at in range(3):
                yield {"model_name": deployed("simple"), "inputs": pair(), "request_id": str(at)}

        seen = []
        async for result, error in opened.stream_infer(requests(), headers=headers):
            assert error is None
            check(result)
            seen.append(result.get_response().id)
        assert seen == ["0", "1", "2"]
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            await opened.infer(deployed("simple"), pair())
