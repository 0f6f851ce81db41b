"""Pipelines as clients meet them: NVIDIA's client, through real Envoy, to ensembles on real Triton."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from services.agent.replica_settings import ReplicaSettings
from services.agent.replica_state import ReplicaFailed
from services.agent.triton_models import fetch
from services.agent.triton_offer import offer
from services.inference.decisions import Abstention, CostMatrix, decide
from services.inference.envoy import Route, Routes, Target
from tests.harness.serving import RunningGateway, gateway, replica, triton_tools
from tests.inference.pipelines.conftest import Shelf

pytestmark = pytest.mark.integration
MODEL = "demo.risk"
WEIGHTS = np.random.default_rng(3).normal(size=(3, 2)).astype(np.float32)
MATRIX = CostMatrix(
    states=("repays", "defaults"),
    actions=("grant", "refuse"),
    costs=((0.0, 1.0), (6.0, 0.0)),
    abstain=Abstention(action="ask", cost=0.6),
)
DECISION = {
    "states": list(MATRIX.states),
    "actions": list(MATRIX.actions),
    "costs": [cost for row in MATRIX.costs for cost in row],
    "abstain": {"action": "ask", "cost": 0.6},
}
RISK = {
    "inputs": [
        {"name": "amounts", "datatype": "INT64", "shape": [-1, 2]},
        {"name": "purpose", "datatype": "BYTES", "shape": [-1, 1]},
    ],
    "steps": [
        {"name": "scale", "normalise": {"mean": [500, 40], "deviation": [250, 10]}, "inputs": {"x": "amounts"},
         "outputs": {"y": "scaled"}},
        {"name": "code", "lookup": {"keys": ["car", "house"], "values": [1, -1]}, "inputs": {"x": "purpose"},
         "outputs": {"y": "coded"}},
        {"name": "plain", "normalise": {}, "inputs": {"x": "coded"}, "outputs": {"y": "purposes"}},
        {"name": "features", "concatenate": {"count": 2}, "inputs": {"x0": "scaled", "x1": "purposes"},
         "outputs": {"y": "x"}},
        {"name": "model", "model": {}},
        {"name": "decide", "decision": DECISION, "inputs": {"x": "logits"}},
    ],
}  # fmt: skip


@asynccontextmanager
async def serving(folder: Path, shelf: Shelf, pipeline: dict[str, Any]) -> AsyncIterator[RunningGateway]:
    """One replica of a pipeline behind a gateway."""
    offered = offer(triton_tools())
    served = await shelf.served(pipeline)
    models = [fetch(shelf.store, "demo", each, folder / "files" / str(at), offered) for at, each in enumerate(served)]
    async with AsyncExitStack() as exits:
        front = await exits.enter_async_context(gateway(folder / "envoy"))
        running = await exits.enter_async_context(replica(folder / "replica", models))
        await running.ready(deadline_s=90)
        target = Target(revision=1, endpoints=(running.endpoint,))
        await front.route(Routes(routes=(Route(model=MODEL, targets=(target,)),)))
        yield front


def ask(front: RunningGateway, **inputs: Any) -> Any:
    client = triton.InferenceServerClient(
        f"localhost:{front.port}", ssl=True, root_certificates=str(front.gateway.certificate)
    )
    tensors = []
    for name, array in inputs.items():
        kind = {"int64": "INT64", "float32": "FP32", "object": "BYTES"}[str(array.dtype)]
        tensor = triton.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    try:
        return client.infer(MODEL, tensors, headers=front.authority.bearer("demo"), client_timeout=20)
    finally:
        client.close()


async def test_a_request_is_prepared_predicted_and_decided(shelf: Shelf, tmp_path: Path) -> None:
    shelf.add("", WEIGHTS)
    random = np.random.default_rng(11)
    amounts = random.integers(0, 1000, (9, 2))
    purpose = np.array(["car", "house", "boat"], object)[random.integers(0, 3, (9, 1))]
    async with serving(tmp_path, shelf, RISK) as front:
        answer = await asyncio.to_thread(ask, front, amounts=amounts, purpose=purpose)
    scaled = (amounts.astype(np.float32) - np.float32([500, 40])) / np.float32([250, 10])
    known = np.vectorize({"car": 1, "house": -1, "boat": 0}.get)(purpose).astype(np.float32)
    expected = decide(MATRIX, np.concatenate([scaled, known], 1) @ WEIGHTS)
    names = np.array([MATRIX.names[at] for at in expected.action[:, 0]], object)
    assert (answer.as_numpy("action") == expected.action).all()
    assert [each.decode() for each in answer.as_numpy("action_name")[:, 0]] == names.tolist()
    np.testing.assert_allclose(answer.as_numpy("expected_cost"), expected.expected_cost, rtol=1e-5)
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected.probabilities, rtol=1e-4, atol=1e-6)
    assert len(set(names)) > 1  # else the test says little


async def test_two_models_one_after_the_other_answer_with_labels(shelf: Shelf, tmp_path: Path) -> None:
    second = np.random.default_rng(4).normal(size=(2, 3)).astype(np.float32)
    other = "projects/demo/models/next/versions/2"
    shelf.add("", WEIGHTS)
    shelf.add(other, second, given="features", made="scores")
    pipeline = {
        "steps": [
            {"name": "first", "model": {}},
            {"name": "second", "model": {"model_version": other}, "inputs": {"features": "logits"}},
            {"name": "best", "top_k": {"k": 2, "labels": ["low", "middle", "high"]}},
        ],
        "outputs": ["labels", "values", "logits"],
    }
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    async with serving(tmp_path, shelf, pipeline) as front:
        answer = await asyncio.to_thread(ask, front, x=x)
    scores = x @ WEIGHTS @ second
    order = np.argsort(-scores, 1)[:, :2]
    names = np.array(["low", "middle", "high"])[order]
    assert [[each.decode() for each in row] for row in answer.as_numpy("labels")] == names.tolist()
    np.testing.assert_allclose(answer.as_numpy("logits"), x @ WEIGHTS, rtol=1e-4, atol=1e-5)


async def test_a_pipeline_whose_golden_answers_are_others_is_never_ready(shelf: Shelf, tmp_path: Path) -> None:
    """The control: readiness means that the whole pipeline answered right."""
    shelf.add("", WEIGHTS)
    served = await shelf.served({"steps": [{"name": "model", "model": {}}, {"name": "p", "calibrate": {}}]})
    offered = offer(triton_tools())
    models = [fetch(shelf.store, "demo", each, tmp_path / "files" / str(at), offered) for at, each in enumerate(served)]
    wrong = {name: array + 0.5 for name, array in models[-1].golden.outputs.items()}
    models[-1] = replace(models[-1], golden=replace(models[-1].golden, outputs=wrong))
    async with replica(tmp_path / "replica", models, ReplicaSettings(restarts=0)) as running:
        with pytest.raises(ReplicaFailed, match="golden inference of demo.risk: mismatched"):
            await running.ready(deadline_s=60)
