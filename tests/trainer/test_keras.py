"""A Keras model on the torch backend, trained by two ranks with a script of one's own, saved, and loaded again."""

import os
import textwrap
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

from services.agent.launcher import Exit, LauncherClient
from tests.harness.gang import make_workplace, start_gang

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("keras") is None, reason="keras is not installed: pip install 'lepton-sdk[keras]'"),
]

SCRIPT = """
import torch
from torch.nn import functional
from lepton import data, train
from lepton.models.keras_module import keras_module
from lepton.train import parallel

def build():
    import keras
    return keras.Sequential([
        keras.layers.Input((8, 8, 1)), keras.layers.Rescaling(1 / 16),
        keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(10),
    ])

gang = train.session().gang
gang.join()
digits = data.digits()
x, y = torch.from_numpy(digits.x).float().permute(0, 2, 3, 1), torch.from_numpy(digits.y)
parts = data.split(len(digits), test_fraction=0.2, seed=0)
known = torch.from_numpy(parts.train)
part = parallel.strategy(
    parallel.Plan.of_environment(), gang, lambda: keras_module(build), lambda p: torch.optim.AdamW(p, lr=0.005)
)

def loss(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="sum")

batches = train.shard(known, batch_size=64, epochs=4)
with train.prefetch(batches, lambda batch: (batch, x[known[batch.indices]], y[known[batch.indices]])) as prepared:
    for batch, inputs, targets in prepared:
        part.forward_backward(inputs, targets, loss, scale=1 / batch.size)
        part.step(learning_rate=0.005)
train.checkpoint(part.state(), step=batch.step, samples=batch.consumed).wait()
part.model.eval()
guesses = part.evaluate(x[parts.test]).argmax(1)
accuracy = float((guesses == y[parts.test]).float().mean())
train.report({"test_accuracy": accuracy}, step=batch.step)
names = sorted(part.full_model_state())
if train.rank() == 0:
    print(accuracy >= 0.95, names)
part.close()
gang.leave()
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launcher() -> AsyncIterator[LauncherClient]:
    async with LauncherClient(os.environ) as opened:
        await opened.ready()
        yield opened


async def test_a_keras_model_is_trained_by_two_ranks(launcher: LauncherClient, tmp_path: Path) -> None:
    """The commonest of ten digits is right in one of ten cases."""
    place = make_workplace(tmp_path)
    script = tmp_path / "mine.py"
    script.write_text(textwrap.dedent(SCRIPT))
    env = {"LEPTON_ARTIFACTS": place.store.url, "KERAS_HOME": str(tmp_path)}
    gang = await start_gang(launcher, world_size=2, folder=tmp_path, env=env, entry=str(script))
    assert await gang.finish() == [Exit(code=0)] * 2, gang.errors
    print(gang.of_kind("metrics")[-1]["values"])
    assert gang.output[0] == "True ['conv2d_bias', 'conv2d_kernel', 'dense_bias', 'dense_kernel']\n"
    assert gang.of_kind("checkpoint")
