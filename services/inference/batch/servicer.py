"""The public methods of batch predictions: convert in, call, convert out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from chassis.kv import KV
from chassis.paging import Pager
from chassis.watching import changes
from lepton.inference.v1 import batch_prediction_service_pb2 as pb
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.batch_prediction_service_pb2_grpc import BatchPredictionServiceServicer
from lepton.names import BatchPredictionName, ProjectName, not_found
from services.inference.batch.predictions import BatchPredictions
from services.inference.batch.store import batch_predictions, key, name_of, prefix


class BatchPredictionServicer(BatchPredictionServiceServicer):
    """Batch predictions."""

    def __init__(self, kv: KV, started: BatchPredictions, pager: Pager) -> None:
        self._kv, self._started, self._pager = kv, started, pager
        self._batches = batch_predictions(kv)

    async def CreateBatchPrediction(self, request: pb.CreateBatchPredictionRequest, context: Any) -> BatchPrediction:
        """Starts one."""
        return await self._started.create(request)

    async def GetBatchPrediction(self, request: pb.GetBatchPredictionRequest, context: Any) -> BatchPrediction:
        """Reads one."""
        return await self._batches.get(BatchPredictionName.parse(request.name))

    async def ListBatchPredictions(
        self, request: pb.ListBatchPredictionsRequest, context: Any
    ) -> pb.ListBatchPredictionsResponse:
        """Lists them."""
        page = await self._pager.page(prefix(ProjectName.parse(request.parent, "parent")), request)
        return pb.ListBatchPredictionsResponse(
            batch_predictions=map(self._batches.of, page.entries), next_page_token=page.next_page_token
        )

    async def WatchBatchPredictions(
        self, request: pb.WatchBatchPredictionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchBatchPredictionsResponse]:
        """Follows them."""
        project = ProjectName.parse(request.parent, "parent")
        only = key(_within(project, request.name)) if request.name else ""
        async with aclosing(changes(self._kv, only or prefix(project), request.revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if only and event.key != only:
                        continue  # one whose id begins with the one asked for
                    found = self._batches.of(event.entry) if event.entry is not None else None
                    yield _change(event.key, found, event.revision)
                bookmark = pb.WatchBatchPredictionsResponse.BOOKMARK
                yield pb.WatchBatchPredictionsResponse(event=bookmark, revision=batch.revision)

    async def CancelBatchPrediction(self, request: pb.CancelBatchPredictionRequest, context: Any) -> BatchPrediction:
        """Stops one."""
        return await self._started.cancel(request)

    async def DeleteBatchPrediction(self, request: pb.DeleteBatchPredictionRequest, context: Any) -> BatchPrediction:
        """Stops and deletes one."""
        return await self._started.delete(request)


def _within(project: ProjectName, text: str) -> BatchPredictionName:
    name = BatchPredictionName.parse(text)
    if name.project != project.project:
        raise not_found(name)
    return name


def _change(at: str, found: BatchPrediction | None, revision: int) -> pb.WatchBatchPredictionsResponse:
    response = pb.WatchBatchPredictionsResponse
    if found is not None:
        return response(event=response.CHANGED, batch_prediction=found, revision=revision)
    gone = BatchPrediction(name=str(name_of(at)))
    return response(event=response.DELETED, batch_prediction=gone, revision=revision)
