"""The scheduler's ledger as the services use it that own workloads."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from chassis.logs import logger
from lepton.errors import OutOfRange, Unavailable
from lepton.scheduler.v1.scheduler_service_pb2 import (
    CancelWorkloadRequest,
    CreateWorkloadRequest,
    DeleteWorkloadRequest,
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

    async def create(self, request: CreateWorkloadRequest) -> Workload:
        """Creates a workload; a repeat of the request gets the first answer. Raises AlreadyExists."""
        workload: Workload = await self._stub.CreateWorkload(request)
        return workload

    async def update(self, request: UpdateWorkloadRequest) -> Workload:
        """Changes a workload. Raises NotFound."""
        workload: Workload = await self._stub.UpdateWorkload(request)
        return workload

    async def cancel(self, name: str) -> None:
        """Stops a workload. Raises NotFound."""
        await self._stub.CancelWorkload(CancelWorkloadRequest(name=name))

    async def delete(self, name: str) -> None:
        """Deletes a workload that has ended. Raises NotFound, FailedPrecondition."""
        await self._stub.DeleteWorkload(DeleteWorkloadRequest(name=name))

    async def watch(self) -> AsyncIterator[WatchWorkloadsResponse]:
        """Every workload and every change, for ever: the stream is resumed where it broke."""
        revision = 0
        while True:
            request = WatchWorkloadsRequest(parent=_EVERY_PROJECT, revision=revision)
            try:
                async for change in self._stub.WatchWorkloads(request, wait_for_ready=True):
                    revision = change.revision or revision
                    yield change
            except OutOfRange:
                revision = 0
            except Unavailable as error:
                log.info("workload watch broke, resuming", reason=error.reason)
            await asyncio.sleep(_PAUSE_S)
