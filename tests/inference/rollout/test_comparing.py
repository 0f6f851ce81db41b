"""Two revisions asked the same: real calls over gRPC to servers that answer as the test says, real artifacts."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import save
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.artifacts import ArtifactStore
from chassis.resources import now
from lepton.inference.v1.revision_pb2 import DeploymentRevision, PreparedModel
from lepton.inference.v1.rollout_pb2 import GateVerdict, PromotionGate
from lepton.models import ModelPackage
from services.inference import repository
from services.inference.comparing import Comparer, Side, Unanswered
from services.inference.rollout.gate import judge
from tests.harness import rollout_models as models

Answering = Callable[[Any], Any]


class Replica(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A Triton that computes what it is told to."""

    def __init__(self, answer: Answering) -> None:
        self.answer, self.rows = answer, 0

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        x = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(list(request.inputs[0].shape))
        self.rows += len(x)
        given = self.answer(x)
        if isinstance(given, grpc.StatusCode):
            await context.abort(given, "as the test says")
        answer = service_pb2.ModelInferResponse(raw_output_contents=[given.astype(np.float32).tobytes()])
        answer.outputs.add(name="logits", datatype="FP32", shape=given.shape)
        return answer


class Live:
    """Live requests of the test's."""

    def __init__(self, *rows: Any) -> None:
        self.rows = rows

    def requests(self, model: str, most: int, since_s: float = 0.0) -> list[bytes]:
        found = []
        for x in self.rows[:most]:
            request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
            request.inputs.add(name="x", datatype="FP32", shape=x.shape)
            found.append(request.SerializeToString())
        return found


class World:
    """A store with revisions, and replicas of them."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self.artifacts = artifacts

    async def revision(self, number: int, onnx: bytes) -> DeploymentRevision:
        store: dict[str, bytes] = {}
        package = ModelPackage.parse(models.package(onnx, store))
        for content in store.values():
            await self.artifacts.put_bytes("acme", content)
        name = f"projects/acme/deployments/digits/revisions/{number}"
        made = DeploymentRevision(name=name, model_version="projects/acme/models/m/versions/1")
        for served in await repository.build(made, package, self.artifacts):
            made.models.append(PreparedModel(name=served.name, repository=served.repository, golden=served.golden))
        return made

    @asynccontextmanager
    async def side(self, revision: DeploymentRevision, answer: Answering) -> AsyncIterator[Side]:
        server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Replica(answer), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield Side(revision=revision, endpoint=f"127.0.0.1:{port}")
        finally:
            await server.stop(0)

    async def whole(self, old: Answering, new: Answering, *live: Any) -> Any:
        stable, candidate = await self.revision(1, models.good()), await self.revision(2, models.good(0.01))
        async with self.side(stable, old) as first, self.side(candidate, new) as second:
            return await Comparer(self.artifacts, Live(*live)).whole("acme.digits", first, second, 8)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(ArtifactStore(f"file://{tmp_path}/artifacts"))


async def test_golden_requests_of_both_and_live_ones_are_asked_of_both(world: World) -> None:
    found = await world.whole(
        models.answers, lambda x: models.answers(x) + 0.25, models.rows(3), models.rows(1, seed=9)
    )
    assert (found.golden_rows, found.live_requests, found.failed) == (128, 2, 0)
    assert found.largest_difference() == pytest.approx(0.25, abs=1e-4)
    assert (found.agreement(), found.accuracy()) == (1.0, (1.0, 1.0))
    assert len(found.stable_ms) == len(found.candidate_ms) == 40


async def test_a_new_revision_that_fails_is_refused_and_bad_live_requests_are_nobodys_fault(world: World) -> None:
    def strict(x: Any) -> Any:
        return grpc.StatusCode.INVALID_ARGUMENT if len(x) == 3 else models.answers(x)

    found = await world.whole(strict, lambda x: grpc.StatusCode.INTERNAL if len(x) == 2 else models.answers(x),
                              models.rows(3), models.rows(2))  # fmt: skip
    assert (found.live_requests, found.failed) == (1, 1)
    verdict = judge(found, PromotionGate(), now())
    assert verdict.outcome == GateVerdict.REFUSED
    assert "INTERNAL: as the test says" in verdict.message


async def test_nothing_is_found_where_the_old_one_does_not_answer(world: World) -> None:
    with pytest.raises(Unanswered, match="INTERNAL"):
        await world.whole(lambda _: grpc.StatusCode.INTERNAL, models.answers)


async def test_another_signature_is_told_without_asking_anyone(world: World) -> None:
    stable, candidate = await world.revision(1, models.good()), await world.revision(2, models.good())
    golden = save({"x": models.rows(16), "logits": np.zeros((16, 4), np.float32)})
    candidate.models[0].golden = await world.artifacts.put_bytes("acme", golden)
    sides = (Side(revision=stable, endpoint="127.0.0.1:1"), Side(revision=candidate, endpoint="127.0.0.1:1"))
    found = await Comparer(world.artifacts, None).whole("acme.digits", *sides, 8)
    assert found.signature == "output logits is float32[4], was float32[10]"
