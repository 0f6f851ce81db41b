"""The repository of a model: what is written, and that real Triton serves it joined in batches."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from lepton.errors import InvalidArgument
from lepton.golden import check
from lepton.models import Signature, Tensor
from services.inference.triton_repository import CONFIG, ServingOptions, render, render_config
from tests.harness.serving import SIGNATURE, replica, samples, served_model


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_free_first_dimension_becomes_the_batch() -> None:
    config = parse(render_config("demo.digits", SIGNATURE, ServingOptions(max_batch=8, max_queue_delay_us=300)))
    assert (config.name, config.backend, config.max_batch_size) == ("demo.digits", "python", 8)
    assert list(config.input[0].dims) == [1, 8, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 300
    assert not config.instance_group, "KIND_GPU is refused and KIND_CPU is the default"


def test_a_fixed_first_dimension_is_served_as_it_is() -> None:
    signature = Signature(
        inputs=(Tensor(name="x", datatype="FP32", shape=(4, 3)),),
        outputs=(Tensor(name="y", datatype="INT64", shape=(4,)),),
    )
    config = parse(render_config("demo.fixed", signature, ServingOptions()))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4, 3]
    assert not config.HasField("dynamic_batching")


def test_one_scalar_per_row_keeps_its_shape() -> None:
    signature = Signature(
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 3)),),
        outputs=(Tensor(name="score", datatype="FP32", shape=(-1,)),),
    )
    config = parse(render_config("demo.score", signature, ServingOptions()))
    assert list(config.output[0].dims) == [1]
    assert config.output[0].HasField("reshape")


def test_equal_input_renders_to_equal_bytes() -> None:
    files = render("demo.digits", b"onnx", SIGNATURE)
    assert files == render("demo.digits", b"onnx", SIGNATURE)
    assert sorted(files) == ["1/model.onnx", "1/model.py", CONFIG]


@pytest.mark.parametrize(
    "signature",
    [
        Signature(inputs=(), outputs=SIGNATURE.outputs),
        Signature(inputs=(Tensor(name="x", datatype="FP31", shape=(-1,)),), outputs=SIGNATURE.outputs),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused(signature: Signature) -> None:
    with pytest.raises(InvalidArgument):
        render("demo.digits", b"onnx", signature)


@pytest.mark.integration
async def test_concurrent_requests_are_joined_and_each_gets_its_own_rows(tmp_path: Path) -> None:
    model = served_model("demo.digits", ServingOptions(max_queue_delay_us=20_000))
    async with replica(tmp_path, [model]) as running:
        await running.ready()
        async with grpc.aio.insecure_channel(running.events[-1].endpoints["grpc"]) as channel:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel)

            async def ask(seed: int) -> None:
                x, logits = samples(1 + seed % 3, seed)
                request = service_pb2.ModelInferRequest(model_name="demo.digits", raw_input_contents=[x.tobytes()])
                request.inputs.add(name="x", datatype="FP32", shape=x.shape)
                answer = await infer.ModelInfer(request, timeout=10)
                actual = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(logits.shape)
                np.testing.assert_allclose(actual, logits, rtol=1e-3, atol=1e-3)

            await asyncio.gather(*(ask(seed) for seed in range(64)))
            statistics = await infer.ModelStatistics(service_pb2.ModelStatisticsRequest(name="demo.digits"), timeout=5)
            joined = statistics.model_stats[0]
            assert joined.execution_count < 0.5 * 64
            # Golden inference in pieces that fit the batch.
            assert (await check(channel, "demo.digits", model.golden, deadline_s=5)).passed
