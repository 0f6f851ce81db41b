"""The scheduler's ledger as the services use it that own workloads."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

from chassis.logs import logger
from lepton.errors import LeptonError, NotFound, OutOfRange
from lepton.scheduler.v1.scheduler_service_pb2 import (
    CancelWorkloadRequest,
    CreateWorkloadRequest,
    DeleteWorkloadRequest,
    GetWorkloadRequest,
    ReportWorkloadProgressRequest,
    UpdateWorkloadRequest,
    WatchWorkloadsRequest,
    WatchWorkloadsResponse,
)
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from lepton.scheduler.v1.workload_pb2 import Workload

log = logger(__name__)
_EVERY_PROJECT: Final = "projects/-"
_PAUSE_S: Final = 0.2


class Ledger:
    """Creates, changes, ends and follows workloads over the mesh."""

    def __init__(self, channel: Any) -> None:
        self._stub = SchedulerServiceStub(channel)

    async def create(self, request: CreateWorkloadRequest) -> Workload | None:
        """Creates a workload; a repeat of the request finds what has become of it: None when it is deleted already.

        Raises AlreadyExists, InvalidArgument.
        """
        created: Workload = await self._stub.CreateWorkload(request)
        # A repeat is answered as the first request was, whatever has happened since.
        try:
            workload: Workload = await self._stub.GetWorkload(GetWorkloadRequest(name=created.name))
        except NotFound:
            return None
        return workload

    async def update(self, request: UpdateWorkloadRequest) -> Workload:
        """Changes a workload. Raises NotFound, FailedPrecondition."""
        workload: Workload = await self._stub.UpdateWorkload(request)
        return workload

    async def cancel(self, name: str) -> None:
        """Stops a workload. Raises NotFound."""
        await self._stub.CancelWorkload(CancelWorkloadRequest(name=name))

    async def delete(self, name: str) -> None:
        """Deletes a workload that has ended. Raises NotFound, FailedPrecondition."""
        await self._stub.DeleteWorkload(DeleteWorkloadRequest(name=name))

    async def report_progress(self, request: ReportWorkloadProgressRequest) -> None:
        """Tells how a workload gets on. Raises NotFound."""
        await self._stub.ReportWorkloadProgress(request)

    async def watch(self) -> AsyncGenerator[WatchWorkloadsResponse, None]:
        """Every workload and every change, for ever; the stream is resumed where it broke.

        Where history is lost everything is told again, and what has vanished meanwhile as DELETED.
        """
        place = _Place()
        while True:
            request = WatchWorkloadsRequest(parent=_EVERY_PROJECT, revision=place.begin())
            try:
                async for change in self._stub.WatchWorkloads(request, wait_for_ready=True):
                    for told in place.take(change):
                        yield told
            except OutOfRange:
                place.revision = 0
            except LeptonError as error:
                log.info("workload watch broke, resuming", reason=error.reason)
            await asyncio.sleep(_PAUSE_S)


class _Place:
    """How far a watch has come, and what it knows to exist."""

    def __init__(self) -> None:
        self.revision = 0
        self._existing: set[str] = set()
        self._listed: set[str] | None = None
        """What the initial state has shown so far; None once it is complete."""

    def begin(self) -> int:
        """A stream is opened; where it resumes."""
        self._listed = set() if self.revision == 0 else None
        return self.revision

    def take(self, change: WatchWorkloadsResponse) -> Iterable[WatchWorkloadsResponse]:
        """What a message means for whoever follows."""
        name = change.workload.name
        if change.event == WatchWorkloadsResponse.BOOKMARK:
            yield from self._vanished(change.revision)
            self.revision = change.revision
        elif self._listed is None:
            # Others of the same revision may still come.
            self.revision = max(self.revision, change.revision - 1)
        else:
            self._listed.add(name)
        if change.event == WatchWorkloadsResponse.CHANGED:
            self._existing.add(name)
        elif change.event == WatchWorkloadsResponse.DELETED:
            self._existing.discard(name)
        yield change

    def _vanished(self, revision: int) -> Iterable[WatchWorkloadsResponse]:
        if self._listed is None:
            return
        for name in sorted(self._existing - self._listed):
            self._existing.discard(name)
            yield WatchWorkloadsResponse(
                event=WatchWorkloadsResponse.DELETED, workload=Workload(name=name), revision=revision
            )
        self._listed = None
