"""Batch predictions as their users start and stop them; what follows is the reconciler's."""

import uuid
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.callers import creator
from chassis.compliance import asked_by
from chassis.holdings import Limits, Unlimited
from chassis.kv import KV, Put, absent, present
from chassis.requests import Claim, Requests
from chassis.resources import now
from chassis.telemetry import traceparent
from lepton.compliance.subjects import of_prediction
from lepton.errors import FailedPrecondition
from lepton.inference.v1 import batch_prediction_service_pb2 as pb
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.names import BatchPredictionName, PoolName, ProjectName, QueueName, VersionName, not_found
from services.inference.batch.fitness import check_signature
from services.inference.batch.states import ENDED
from services.inference.batch.store import batch_predictions
from services.inference.pipelines.resolution import signature_of
from services.inference.references import quarantined
from services.inference.registry import Registry
from services.inference.store import REQUESTS, quarantined_key, served_key, version_key

_GIVEN: Final = (
    "display_name", "output_format", "max_workers", "shard_rows", "batch_size", "max_bad_rows", "max_retries", "queue",
    "priority", "cpu_milli", "memory_bytes",
)  # fmt: skip


class BatchPredictions:
    """Creates, cancels and deletes batch predictions."""

    def __init__(self, kv: KV, registry: Registry, artifacts: ArtifactStore, limits: Limits | None = None) -> None:
        self._limits = limits or Unlimited()
        self._kv, self._registry, self._artifacts = kv, registry, artifacts
        self._batches = batch_predictions(kv)
        self._requests = Requests(kv, REQUESTS)

    async def create(self, request: pb.CreateBatchPredictionRequest) -> BatchPrediction:
        """A new one. Raises AlreadyExists, NotFound (the version, the dataset), InvalidArgument, FailedPrecondition."""
        return await self._requests.once(request, BatchPrediction, lambda claim: self._create(request, claim))

    async def _create(self, request: pb.CreateBatchPredictionRequest, claim: Claim) -> BatchPrediction | None:
        name = BatchPredictionName(ProjectName.parse(request.parent, "parent").project, request.batch_prediction_id)
        given = request.batch_prediction
        asked = VersionName.parse(given.model_version, "batch_prediction.model_version")
        if asked.project != name.project:
            raise not_found(asked)
        for index, pool in enumerate(given.pools):
            PoolName.parse(pool, f"batch_prediction.pools[{index}]")
        if given.queue:
            QueueName.parse(given.queue, "batch_prediction.queue")
        found = await self._registry.get_version(str(asked))
        version = VersionName.parse(found.name)
        if await self._kv.get(quarantined_key(version)) is not None:
            raise quarantined(found)
        check_signature(signature_of(found))
        await self._artifacts.size(name.project, given.input.artifact)
        batch = _new(name, str(version), given)
        model = await self._registry.get_model(str(version.parent))
        self._registry.compliance.admit(of_prediction(batch, found, model, given.input.artifact, asked_by()))
        guard = [present(version_key(version)), absent(quarantined_key(version))]
        batch.creator = creator()
        # The mark: whoever deletes the model or the version meanwhile looks again.
        beside = Put(served_key(version.parent), b"")
        async with self._limits.admit(batch.creator) as admitted:
            return await self._batches.create(
                name, batch, claim, guard=[*guard, *admitted.guard], beside=[beside, *admitted.ops]
            )

    async def cancel(self, request: pb.CancelBatchPredictionRequest) -> BatchPrediction:
        """Starts to stop one; nothing when it has ended. Raises NotFound."""

        def stop(current: BatchPrediction) -> None:
            if current.state == BatchPrediction.DELETING:
                raise FailedPrecondition("BATCH_PREDICTION_DELETING", batch_prediction=current.name)
            if current.state not in ENDED:
                current.state = BatchPrediction.CANCELLING
                current.message = "its workers are being stopped"

        return await self._batches.change(BatchPredictionName.parse(request.name), stop)

    async def delete(self, request: pb.DeleteBatchPredictionRequest) -> BatchPrediction:
        """Starts to stop and delete one. Raises NotFound, Aborted."""

        def end(current: BatchPrediction) -> None:
            current.state = BatchPrediction.DELETING
            current.message = "it is being deleted"

        return await self._batches.change(BatchPredictionName.parse(request.name), end, etag=request.etag)


def _new(name: BatchPredictionName, version: str, given: BatchPrediction) -> BatchPrediction:
    stamp = now()
    batch = BatchPrediction(
        name=str(name),
        uid=str(uuid.uuid4()),
        model_version=version,
        input=given.input,
        labels=given.labels,
        pools=given.pools,
        state=BatchPrediction.PREPARING,
        message="the dataset is being divided",
        trace_context=traceparent(),
        create_time=stamp,
        update_time=stamp,
    )
    for field in _GIVEN:
        setattr(batch, field, getattr(given, field))
    return batch
