"""The public methods of batch predictions, as a client sees them: over real TLS, with tokens and roles."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from chassis.paging import Pager
from lepton.errors import FailedPrecondition, InvalidArgument, LeptonError, NotFound, PermissionDenied
from lepton.inference.v1 import batch_prediction_service_pb2 as pb
from lepton.inference.v1 import inference_service_pb2, registry_pb2
from lepton.inference.v1.batch_prediction_pb2 import BatchInput, BatchPrediction
from lepton.inference.v1.batch_prediction_service_pb2_grpc import (
    BatchPredictionServiceStub,
    add_BatchPredictionServiceServicer_to_server,
)
from services.auth.roles import ROLES
from services.inference.batch.predictions import BatchPredictions
from services.inference.batch.servicer import BatchPredictionServicer
from services.inference.quarantine import Quarantines
from services.inference.store import PAGE_KEY
from tests.harness.mesh import Mesh, serving
from tests.inference.batch.conftest import BatchWorld, npz


@pytest.fixture
async def mesh(world: BatchWorld) -> AsyncIterator[Mesh]:
    users = BatchPredictions(world.kv, world.registry, world.artifacts)
    servicer = BatchPredictionServicer(world.kv, users, await Pager.open(world.kv, PAGE_KEY))
    async with serving((add_BatchPredictionServiceServicer_to_server, servicer), name="inference") as mesh:
        mesh.change_policy(roles=ROLES)
        yield mesh


@pytest.fixture
async def wish(world: BatchWorld) -> pb.CreateBatchPredictionRequest:
    artifact = await world.artifacts.put_bytes("acme", npz(np.ones((9, 4), np.float32)))
    return request((await world.version()).name, artifact)


def request(version: str, artifact: str, **fields: Any) -> pb.CreateBatchPredictionRequest:
    given = BatchPrediction(model_version=version, input=BatchInput(artifact=artifact), **{"max_workers": 1, **fields})
    return pb.CreateBatchPredictionRequest(
        parent="projects/acme", batch_prediction_id="scores", batch_prediction=given, request_id=str(uuid.uuid4())
    )


async def test_from_a_wish_to_its_deletion(mesh: Mesh, wish: pb.CreateBatchPredictionRequest) -> None:
    async with mesh.client() as channel:
        stub: Any = BatchPredictionServiceStub(channel)
        created = await stub.CreateBatchPrediction(wish)
        assert (created.state, created.model_version.rpartition("/")[2]) == (BatchPrediction.PREPARING, "1")
        assert await stub.GetBatchPrediction(pb.GetBatchPredictionRequest(name=created.name)) == created
        listed = await stub.ListBatchPredictions(pb.ListBatchPredictionsRequest(parent="projects/acme"))
        assert list(listed.batch_predictions) == [created]
        async for told in stub.WatchBatchPredictions(pb.WatchBatchPredictionsRequest(parent="projects/acme")):
            assert told.batch_prediction == created
            break
        stopped = await stub.CancelBatchPrediction(pb.CancelBatchPredictionRequest(name=created.name))
        assert stopped.state == BatchPrediction.CANCELLING
        deleted = await stub.DeleteBatchPrediction(pb.DeleteBatchPredictionRequest(name=created.name))
        assert deleted.state == BatchPrediction.DELETING


@pytest.mark.parametrize(("who", "error"), [("users/carol", PermissionDenied), ("users/bob", NotFound)])
async def test_who_may_not_start_one_cannot(
    mesh: Mesh, wish: pb.CreateBatchPredictionRequest, who: str, error: type[LeptonError]
) -> None:
    """Carol may look at the project; Bob knows nothing of it."""
    async with mesh.client(who) as channel:
        with pytest.raises(error):
            await BatchPredictionServiceStub(channel).CreateBatchPrediction(wish)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_version": "projects/acme/models/none/versions/1"}, "VERSION_NOT_FOUND"),
        ({"model_version": "projects/other/models/m/versions/1"}, "VERSION_NOT_FOUND"),
        ({"input": BatchInput(artifact="sha256:" + "0" * 64)}, "ARTIFACT_NOT_FOUND"),
        ({"pools": ["nowhere"]}, "INVALID_NAME"),
        ({"max_workers": 0}, "INVALID_FIELD"),
        ({"max_bad_rows": -1}, "INVALID_FIELD"),
    ],
)
async def test_what_cannot_be_is_refused_at_once(
    mesh: Mesh, wish: pb.CreateBatchPredictionRequest, changes: dict[str, Any], reason: str
) -> None:
    given = wish.batch_prediction
    fields = {"model_version": given.model_version, "input": given.input, "max_workers": 1, **changes}
    wish.batch_prediction.CopyFrom(BatchPrediction(**fields))
    async with mesh.client() as channel:
        with pytest.raises((NotFound, InvalidArgument)) as refused:
            await BatchPredictionServiceStub(channel).CreateBatchPrediction(wish)
    assert refused.value.reason == reason


async def test_a_quarantined_version_predicts_nothing_and_a_model_stays_while_it_predicts(world: BatchWorld) -> None:
    artifact = await world.artifacts.put_bytes("acme", npz(np.ones((9, 4), np.float32)))
    version = (await world.version()).name
    batches, quarantines = (
        BatchPredictions(world.kv, world.registry, world.artifacts),
        Quarantines(world.kv, world.registry),
    )
    asked = {"parent": "projects/acme", "source": version}
    await quarantines.quarantine(registry_pb2.QuarantineModelsRequest(**asked))
    with pytest.raises(FailedPrecondition, match="VERSION_QUARANTINED"):
        await batches.create(request(version, artifact))
    await quarantines.release(registry_pb2.ReleaseModelsRequest(**asked))
    batch = await batches.create(request(version, artifact))
    with pytest.raises(FailedPrecondition) as refused:
        await world.registry.delete_model(
            inference_service_pb2.DeleteModelRequest(name=version.rpartition("/versions/")[0])
        )
    assert (refused.value.reason, refused.value.metadata["user"]) == ("MODEL_IN_USE", batch.name)
