"""A client that knows the Open Inference Protocol and no extension of it."""

import grpc
import numpy as np
import pytest

from tests.inference.clients.example_models import deployed
from tests.inference.clients.open_inference import call, message
from tests.inference.clients.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(60)]


def channel(stack: Stack) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(stack.address, grpc.ssl_channel_credentials(stack.certificate.read_bytes()))


async def test_the_six_methods(stack: Stack) -> None:
    metadata, model = tuple(stack.bearer.items()), deployed("simple")
    async with channel(stack) as opened:

        async def ask(method: str, **fields: object) -> object:
            return await call(opened, method)(message(f"{method}Request")(**fields), metadata=metadata, timeout=20)

        assert (await ask("ServerLive")).live  # type: ignore[attr-defined]
        assert (await ask("ServerReady")).ready  # type: ignore[attr-defined]
        assert (await ask("ServerMetadata")).name == "triton"  # type: ignore[attr-defined]
        assert (await ask("ModelReady", name=model)).ready  # type: ignore[attr-defined]
        about = await ask("ModelMetadata", name=model)
        assert [tensor.datatype for tensor in about.outputs] == ["INT32", "INT32"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "typed"])
async def test_inference_in_both_forms(stack: Stack, is_raw: bool) -> None:
    request = message("ModelInferRequest")(model_name=deployed("simple"), id="one")
    for name, values in (("INPUT0", np.arange(16, dtype=np.int32)), ("INPUT1", np.ones(16, np.int32))):
        tensor = request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        if is_raw:
            request.raw_input_contents.append(values.tobytes())
        else:
            tensor.contents.int_contents.extend(values.tolist())
    request.outputs.add(name="OUTPUT0")
    async with channel(stack) as opened:
        answer = await call(opened, "ModelInfer")(request, metadata=tuple(stack.bearer.items()), timeout=20)
    assert (answer.id, [output.name for output in answer.outputs]) == ("one", ["OUTPUT0"])
    assert np.frombuffer(answer.raw_output_contents[0], np.int32).tolist() == list(range(1, 17))
