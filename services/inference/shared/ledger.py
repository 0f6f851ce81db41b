"""The scheduler's ledger with shared models in it: to their owners they are workloads like any other."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from chassis.kv import KV, follow
from chassis.ledger import Ledger
from chassis.resources import now
from lepton.errors import AlreadyExists, InvalidArgument, NotFound
from lepton.internal.v1.model_server_pb2 import SharedModel
from lepton.names import WorkloadName
from lepton.scheduler.v1.scheduler_service_pb2 import (
    CreateWorkloadRequest,
    UpdateWorkloadRequest,
    WatchWorkloadsResponse,
)
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference.shared.registry import SHARED, name_of, seen_as, shared_models

_QUEUED: Final = 1000


class SharedLedger(Ledger):
    """A ledger in which a workload whose Triton program is `shared` takes no place: it becomes a shared model."""

    def __init__(self, ledger: Ledger, kv: KV) -> None:
        self._ledger, self._kv, self._shared = ledger, kv, shared_models(kv)

    async def create(self, request: CreateWorkloadRequest) -> Workload | None:
        """Creates a workload, or a shared model. Raises AlreadyExists, InvalidArgument."""
        if not _is_shared(request.workload):
            return await self._ledger.create(request)
        _check(request.workload)
        name = WorkloadName.parse(f"{request.parent}/workloads/{request.workload_id}")
        model = SharedModel(workload=request.workload, wanted=True, message="it waits for a place on a shared server")
        model.workload.name = str(name)
        model.workload.create_time.CopyFrom(now())
        try:
            created = await self._shared.create(name, model)
        except AlreadyExists:
            created = None
        return seen_as(created or await self._shared.get(name))

    async def update(self, request: UpdateWorkloadRequest) -> Workload:
        """Changes a workload. Raises NotFound, FailedPrecondition."""
        name = WorkloadName.parse(request.workload.name)
        if await self._shared.find(name) is None:
            return await self._ledger.update(request)

        def change(model: SharedModel) -> None:
            del model.workload.groups[:]
            model.workload.groups.extend(request.workload.groups)

        return seen_as(await self._shared.change(name, change))

    async def cancel(self, name: str) -> None:
        """Stops a workload. Raises NotFound."""
        if not await self._forget(name):
            await self._ledger.cancel(name)

    async def delete(self, name: str) -> None:
        """Deletes a workload that has ended. Raises NotFound, FailedPrecondition."""
        if not await self._forget(name):
            await self._ledger.delete(name)

    async def report_progress(self, request: object) -> None:
        """Tells how a workload gets on. Raises NotFound."""
        await self._ledger.report_progress(request)  # type: ignore[arg-type]

    async def watch(self) -> AsyncGenerator[WatchWorkloadsResponse, None]:
        """Every workload and every change, shared models among them, for ever; one BOOKMARK once all are told."""
        told: asyncio.Queue[WatchWorkloadsResponse] = asyncio.Queue(_QUEUED)
        knows = asyncio.Event()
        feeds = [
            asyncio.create_task(_pass(self._models(knows), told)),
            asyncio.create_task(_pass(self._own(knows), told)),
        ]
        try:
            while True:
                getting = asyncio.create_task(told.get())
                done, _ = await asyncio.wait({getting, *feeds}, return_when=asyncio.FIRST_COMPLETED)
                if getting not in done:
                    getting.cancel()
                    for feed in done:
                        feed.result()
                    return
                yield getting.result()
        finally:
            for feed in feeds:
                feed.cancel()
            await asyncio.gather(*feeds, return_exceptions=True)

    async def _own(self, knows: asyncio.Event) -> AsyncGenerator[WatchWorkloadsResponse, None]:
        """The ledger's changes; its first bookmark waits until the shared models are told too."""
        async with aclosing(self._ledger.watch()) as changes:
            async for change in changes:
                if change.event == WatchWorkloadsResponse.BOOKMARK:
                    await knows.wait()
                yield change

    async def _models(self, knows: asyncio.Event) -> AsyncGenerator[WatchWorkloadsResponse, None]:
        async with aclosing(follow(self._kv, SHARED)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is None:
                        gone = Workload(name=name_of(event.key), kind=Workload.SERVING)
                        yield WatchWorkloadsResponse(event=WatchWorkloadsResponse.DELETED, workload=gone)
                    else:
                        seen = seen_as(self._shared.of(event.entry))
                        yield WatchWorkloadsResponse(event=WatchWorkloadsResponse.CHANGED, workload=seen)
                knows.set()

    async def _forget(self, name: str) -> bool:
        try:
            await self._shared.delete(WorkloadName.parse(name))
        except NotFound:
            return False
        return True


def _is_shared(workload: Workload) -> bool:
    return any(group.program.triton.shared and group.program.triton.models for group in workload.groups)


def _check(workload: Workload) -> None:
    """Raises InvalidArgument for what a model on a shared server cannot have."""
    if len(workload.groups[0].program.triton.models) != 1:
        raise _invalid("deployment.serving.shared", "one model only: a pipeline is served by servers of its own")
    if workload.pools:
        raise _invalid("deployment.pools", "must be empty: a shared server is where it is")
    if workload.groups[0].resources.device_milli or workload.groups[0].max_count > 1:
        problem = "must be 1: a shared model gets as many copies as its calls need"
        raise _invalid("deployment.replicas", problem)


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field: problem})


async def _pass(source: AsyncIterator[WatchWorkloadsResponse], target: "asyncio.Queue[WatchWorkloadsResponse]") -> None:
    async for change in source:
        await target.put(change)
