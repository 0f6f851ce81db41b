"""The RPCs on queues and floating resources: convert in, call, convert out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.empty_pb2 import Empty

from lepton.names import FloatingResourceName, QueueName
from lepton.scheduler.v1 import queue_pb2, queue_service_pb2_grpc
from lepton.scheduler.v1 import queue_service_pb2 as service
from services.scheduler.floating import FloatingResources
from services.scheduler.queues import Queues


class QueueServicer(queue_service_pb2_grpc.QueueServiceServicer):
    """lepton.scheduler.v1.QueueService."""

    def __init__(self, queues: Queues, floating: FloatingResources) -> None:
        self._queues = queues
        self._floating = floating

    async def CreateQueue(self, request: service.CreateQueueRequest, context: Any) -> queue_pb2.Queue:
        """See the proto, as for all of them."""
        return await self._queues.create(request)

    async def GetQueue(self, request: service.GetQueueRequest, context: Any) -> queue_pb2.Queue:
        return await self._queues.get(QueueName.parse(request.name))

    async def ListQueues(self, request: service.ListQueuesRequest, context: Any) -> service.ListQueuesResponse:
        return await self._queues.list(request)

    async def WatchQueues(
        self, request: service.WatchQueuesRequest, context: Any
    ) -> AsyncIterator[service.WatchQueuesResponse]:
        async with aclosing(self._queues.watch(request)) as changes:
            async for change in changes:
                yield change

    async def UpdateQueue(self, request: service.UpdateQueueRequest, context: Any) -> queue_pb2.Queue:
        return await self._queues.update(request)

    async def DeleteQueue(self, request: service.DeleteQueueRequest, context: Any) -> Empty:
        await self._queues.delete(QueueName.parse(request.name), request.etag)
        return Empty()

    async def CreateFloatingResource(
        self, request: service.CreateFloatingResourceRequest, context: Any
    ) -> queue_pb2.FloatingResource:
        return await self._floating.create(request)

    async def GetFloatingResource(
        self, request: service.GetFloatingResourceRequest, context: Any
    ) -> queue_pb2.FloatingResource:
        return await self._floating.get(FloatingResourceName.parse(request.name))

    async def ListFloatingResources(
        self, request: service.ListFloatingResourcesRequest, context: Any
    ) -> service.ListFloatingResourcesResponse:
        return await self._floating.list(request)

    async def WatchFloatingResources(
        self, request: service.WatchFloatingResourcesRequest, context: Any
    ) -> AsyncIterator[service.WatchFloatingResourcesResponse]:
        async with aclosing(self._floating.watch(request)) as changes:
            async for change in changes:
                yield change

    async def UpdateFloatingResource(
        self, request: service.UpdateFloatingResourceRequest, context: Any
    ) -> queue_pb2.FloatingResource:
        return await self._floating.update(request)

    async def DeleteFloatingResource(self, request: service.DeleteFloatingResourceRequest, context: Any) -> Empty:
        await self._floating.delete(FloatingResourceName.parse(request.name), request.etag)
        return Empty()
