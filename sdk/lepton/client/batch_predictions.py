"""`client.batch_predictions`: models applied to whole datasets."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from lepton.artifacts import parse_digest
from lepton.client.artifacts import Artifacts
from lepton.client.batch_results import Joiner, joiner
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.pools import pool_name
from lepton.client.queues import queue_name
from lepton.client.scope import Scope
from lepton.client.watching import Change, Watch, awaited, in_states
from lepton.errors import DeadlineExceeded, FailedPrecondition, NotFound
from lepton.inference.v1 import batch_prediction_service_pb2 as pb
from lepton.inference.v1.batch_prediction_pb2 import BatchInput, BatchPrediction
from lepton.inference.v1.batch_prediction_service_pb2_grpc import BatchPredictionServiceStub
from lepton.names import BatchPredictionName

ENDED: Final = frozenset({BatchPrediction.SUCCEEDED, BatchPrediction.FAILED, BatchPrediction.CANCELLED})


class BatchPredictions(Group):
    """Starts, reads, lists, watches, cancels and deletes batch predictions, and fetches their results."""

    def __init__(self, calls: Calls, scope: Scope, artifacts: Artifacts) -> None:
        super().__init__(calls, scope)
        self._artifacts = artifacts
        self._stub = BatchPredictionServiceStub(calls.channel("inference"))

    async def create(
        self,
        batch_prediction_id: str,
        model_version: str,
        dataset: str,
        *,
        workers: int = 1,
        columns: Collection[str] = (),
        allow_missing: bool = False,
        output_format: "BatchPrediction.Format.ValueType" = BatchPrediction.NPZ,
        shard_rows: int = 0,
        batch_size: int = 0,
        max_bad_rows: int = 0,
        max_retries: int = 0,
        pools: Collection[str] = (),
        queue: str = "",
        priority: int = 0,
        cpu_milli: int = 0,
        memory_bytes: int = 0,
        labels: Mapping[str, str] | None = None,
        project: str | None = None,
        request_id: str = "",
    ) -> BatchPrediction:
        """Predict for every row of an artifact (its digest), by at most `workers` at once.

        AlreadyExists, NotFound (the version, the artifact), InvalidArgument (BATCH_INPUT_INVALID).
        """
        batch = BatchPrediction(
            model_version=model_version,
            input=BatchInput(artifact=parse_digest(dataset, "dataset"), columns=columns, allow_missing=allow_missing),
            output_format=output_format,
            max_workers=workers,
            shard_rows=shard_rows,
            batch_size=batch_size,
            max_bad_rows=max_bad_rows,
            max_retries=max_retries,
            pools=map(pool_name, pools),
            queue=queue_name(queue) if queue else "",
            priority=priority,
            cpu_milli=cpu_milli,
            memory_bytes=memory_bytes,
            labels=labels,
        )
        request = pb.CreateBatchPredictionRequest(
            parent=self._scope.parent(project),
            batch_prediction_id=batch_prediction_id,
            batch_prediction=batch,
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateBatchPrediction, request)

    async def get(self, batch_prediction: str) -> BatchPrediction:
        """One, by id or name. NotFound."""
        request = pb.GetBatchPredictionRequest(name=self._name(batch_prediction))
        return await self._calls.unary(self._stub.GetBatchPrediction, request)

    def list(self, *, project: str | None = None, page_size: int = 0) -> Listing[BatchPrediction]:
        """Those of a project."""
        parent = self._scope.parent(project)

        async def page(token: str) -> Page[BatchPrediction]:
            request = pb.ListBatchPredictionsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListBatchPredictions, request)
            return answer.batch_predictions, answer.next_page_token

        return Listing(page)

    async def watch(self, batch_prediction: str) -> AsyncGenerator[BatchPrediction, None]:
        """It as it is, then after every change; ends when it is deleted."""
        async with aclosing(self._watch(self._name(batch_prediction)).changes()) as changes:
            async for change in changes:
                if change.is_deleted:
                    return
                yield change.resource

    def watch_all(
        self, *, project: str | None = None, revision: int = 0
    ) -> AsyncGenerator[Change[BatchPrediction], None]:
        """Those of a project as they are, then every change, for ever."""
        return self._watch("", self._scope.parent(project), revision).changes()

    async def wait(
        self,
        batch_prediction: str,
        *,
        states: int | Collection[int] = ENDED,
        until: Callable[[BatchPrediction], bool] | None = None,
        timeout_s: float | None = None,
    ) -> BatchPrediction:
        """It when it has ended, or is in the states, or `until` says so. DeadlineExceeded."""
        name, wished = self._name(batch_prediction), in_states(states)
        return await awaited(
            name,
            lambda: self.get(name),
            lambda known: self._watch(name, known=(known,)),
            lambda each: (until(each) if until else each.state in wished) or each.state in ENDED,
            timeout_s,
        )

    async def wait_deleted(self, batch_prediction: str, *, timeout_s: float | None = None) -> None:
        """Return when it is gone. DeadlineExceeded."""
        name = self._name(batch_prediction)
        try:
            async with asyncio.timeout(timeout_s):
                known = await self.get(name)
                async with aclosing(self._watch(name, known=(known,)).changes()) as changes:
                    async for change in changes:
                        if change.is_deleted:
                            return
        except NotFound:
            return
        except TimeoutError:
            raise DeadlineExceeded("WAIT_TIMED_OUT", name=name, state="not deleted yet") from None

    async def cancel(self, batch_prediction: str) -> BatchPrediction:
        """Stop it; what is done is kept. NotFound."""
        request = pb.CancelBatchPredictionRequest(name=self._name(batch_prediction))
        return await self._calls.unary(self._stub.CancelBatchPrediction, request)

    async def delete(self, batch_prediction: str, *, etag: str = "") -> BatchPrediction:
        """Stop it and delete it; its files stay, as artifacts of the project. NotFound, Aborted."""
        request = pb.DeleteBatchPredictionRequest(name=self._name(batch_prediction), etag=etag)
        return await self._calls.unary(self._stub.DeleteBatchPrediction, request)

    async def manifest(self, batch_prediction: str) -> dict[str, Any]:
        """What its result is made of: shards, their files, the bad rows. FailedPrecondition while there is none."""
        _, manifest = await self._result(batch_prediction)
        return manifest

    async def download(self, batch_prediction: str, path: Path) -> dict[str, Any]:
        """Its result as one file, in the order of the dataset; the manifest. The file appears whole or not at all.

        FailedPrecondition (BATCH_PREDICTION_WITHOUT_RESULT).
        """
        batch, manifest = await self._result(batch_prediction)
        project = BatchPredictionName.parse(batch.name).project
        with joiner(manifest["output"], path) as joined:
            for shard in manifest["shards"]:
                await self._append(joined, shard["file"], project)
            await asyncio.to_thread(joined.finish)
        return manifest

    async def _append(self, joined: Joiner, digest: str, project: str) -> None:
        await asyncio.to_thread(joined.append, await self._artifacts.download(digest, project=f"projects/{project}"))

    async def _result(self, batch_prediction: str) -> tuple[BatchPrediction, dict[str, Any]]:
        batch = await self.get(batch_prediction)
        if not batch.manifest:
            raise FailedPrecondition("BATCH_PREDICTION_WITHOUT_RESULT", batch_prediction=batch.name)
        project = BatchPredictionName.parse(batch.name).project
        data = await self._artifacts.download(batch.manifest, project=f"projects/{project}")
        manifest: dict[str, Any] = json.loads(data)
        return batch, manifest

    def _watch(
        self, name: str, parent: str = "", revision: int = 0, known: Iterable[BatchPrediction] = ()
    ) -> Watch[BatchPrediction]:
        parent = parent or str(BatchPredictionName.parse(name).parent)
        return Watch(
            self._calls,
            BatchPrediction,
            lambda position: self._stub.WatchBatchPredictions(
                pb.WatchBatchPredictionsRequest(parent=parent, name=name, revision=position)
            ),
            revision,
            known,
        )

    def _name(self, batch_prediction: str) -> str:
        return self._scope.name(BatchPredictionName, batch_prediction)
