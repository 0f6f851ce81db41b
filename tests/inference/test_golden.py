"""Golden inference: every way in which a server can fail is told apart."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from safetensors.numpy import save

from lepton.errors import InvalidArgument
from lepton.golden import Golden, Outcome, check
from services.inference.golden import prove
from services.inference.triton_repository import ServingOptions, render_config
from tests.harness.serving import SIGNATURE, replica, samples, served_model

CONFIG = render_config("demo.digits", SIGNATURE, ServingOptions(max_batch=8))


def golden(**tensors: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Golden:
    x, logits = samples(20)
    return Golden.parse(save({"x": x, "logits": logits, **tensors}), CONFIG)


def test_samples_are_sent_in_pieces_that_fit_the_batch() -> None:
    assert [piece.rows for piece in golden().requests()] == [8, 8, 4]
    assert golden().head(1).rows == 1


def test_tensors_beyond_the_signature_are_left_out() -> None:
    assert set(golden(y=np.zeros(20, np.int64)).outputs) == {"logits"}


@pytest.mark.parametrize(
    "tensors", [b"", save({"x": np.zeros((1, 1, 8, 8), np.float32)}), save({"x": np.zeros(1), "logits": np.zeros(1)})]
)
def test_golden_tensors_that_do_not_fit_are_refused(tensors: bytes) -> None:
    with pytest.raises(InvalidArgument, match="GOLDEN_INVALID"):
        Golden.parse(tensors, CONFIG)


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    verdict = await prove("127.0.0.1:1", "demo.digits", golden(), deadline_s=1)
    assert verdict.outcome is Outcome.UNREACHABLE
    assert not verdict.passed


@pytest.mark.integration
async def test_a_real_server_is_matched_mismatched_malformed_and_refused(tmp_path: Path) -> None:
    model = served_model("demo.digits")
    x, logits = samples(20)
    async with replica(tmp_path, [model]) as running:
        await running.ready()
        async with grpc.aio.insecure_channel(running.events[-1].endpoints["grpc"]) as channel:

            async def outcome(name: str, expected: Golden) -> Outcome:
                verdict = await check(channel, name, expected, deadline_s=5)
                assert verdict.passed == (not verdict.detail)
                return verdict.outcome

            assert await outcome("demo.digits", golden()) is Outcome.MATCHED
            assert await outcome("demo.digits", golden(logits=logits + 0.1)) is Outcome.MISMATCHED
            assert await outcome("demo.digits", golden(logits=np.full_like(logits, np.nan))) is Outcome.MISMATCHED
            wide = Golden(inputs={"x": x}, outputs={"logits": logits.astype(np.float64)}, max_batch=8)
            assert await outcome("demo.digits", wide) is Outcome.MALFORMED
            assert await outcome("demo.unknown", golden()) is Outcome.REFUSED
            other = Golden(inputs={"x": x}, outputs={"absent": logits}, max_batch=8)
            assert await outcome("demo.digits", other) is Outcome.REFUSED
