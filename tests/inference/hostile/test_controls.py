"""That the other tests here can fail: the witness, and the judge of refusals, each with something that is wrong."""

import asyncio

import numpy as np
import pytest

from tests.harness.wait import until
from tests.inference.hostile.refusals import assert_clean
from tests.inference.hostile.world import Refusal, Witness, World, message

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]


async def test_a_witness_who_is_refused_says_so(unharmed: World) -> None:
    witness = Witness()
    watching = asyncio.create_task(witness.watch(unharmed.channel, ()))
    try:
        await until(lambda: witness.failures, 20)
    finally:
        watching.cancel()
    assert "UNAUTHENTICATED" in witness.failures[0]


@pytest.mark.parametrize(
    "text",
    [
        "Status Message: matmul_helper.h:59 Compute MatMul dimension mismatch",
        "[ONNXRuntimeError] : 6 : /onnxruntime_src/onnxruntime/core/framework/x.cc:1",
        "Traceback (most recent call last)",
        "failed to open /tmp/models/1/model.onnx",
        "upstream connect error or disconnect/reset before headers",
        "connection to 127.0.0.1:8001 refused",
    ],
)
async def test_what_tells_how_we_are_built_is_found(text: str) -> None:
    with pytest.raises(AssertionError):
        assert_clean(Refusal("INVALID_ARGUMENT", text), "INVALID_ARGUMENT")


async def test_what_is_right_is_answered(unharmed: World) -> None:
    """Else a gateway that refuses everything would pass."""
    request = message("demo.elastic", "x", np.ones((3, 64), np.float32), "FP32")
    assert_clean(await unharmed.call(request.SerializeToString()), "OK")
