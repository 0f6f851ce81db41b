"""`client.queues`: lines of workloads with a share of the fleet. `client.floating_resources`: what lies on no node."""

from collections.abc import AsyncGenerator, Sequence

from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.client.watching import Change, Watch
from lepton.names import FloatingResourceName, QueueName
from lepton.scheduler.v1 import queue_service_pb2 as pb
from lepton.scheduler.v1.queue_pb2 import FloatingResource, Queue
from lepton.scheduler.v1.queue_service_pb2_grpc import QueueServiceStub


class Queues(Group):
    """Creates, reads, lists, changes and deletes queues."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = QueueServiceStub(calls.channel("scheduler"))

    async def create(self, queue_id: str, queue: Queue | None = None, *, request_id: str = "") -> Queue:
        """A new queue. AlreadyExists; InvalidArgument names each field that does not go with the other queues."""
        request = pb.CreateQueueRequest(
            queue_id=queue_id, queue=queue or Queue(), request_id=request_id or new_request_id()
        )
        return await self._calls.unary(self._stub.CreateQueue, request)

    async def get(self, queue: str) -> Queue:
        """A queue by id or name, with what waits in it and what it uses."""
        return await self._calls.unary(self._stub.GetQueue, pb.GetQueueRequest(name=queue_name(queue)))

    def list(self, *, page_size: int = 0) -> Listing[Queue]:
        """All queues."""

        async def page(token: str) -> Page[Queue]:
            request = pb.ListQueuesRequest(page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListQueues, request)
            return answer.queues, answer.next_page_token

        return Listing(page)

    def watch_all(self, *, revision: int = 0) -> AsyncGenerator[Change[Queue], None]:
        """The queues as they are, then every change of what is set on them, for ever."""
        return Watch(
            self._calls,
            Queue,
            lambda position: self._stub.WatchQueues(pb.WatchQueuesRequest(revision=position)),
            revision,
        ).changes()

    async def update(self, queue: Queue, fields: Sequence[str] = ()) -> Queue:
        """Change these fields of a queue, or those that are set. Aborted when it has changed since it was read."""
        request = pb.UpdateQueueRequest(queue=queue)
        request.update_mask.paths.extend(fields)
        return await self._calls.unary(self._stub.UpdateQueue, request)

    async def delete(self, queue: str, *, etag: str = "") -> None:
        """Delete a queue that nothing uses. FailedPrecondition."""
        await self._calls.unary(self._stub.DeleteQueue, pb.DeleteQueueRequest(name=queue_name(queue), etag=etag))


class FloatingResources(Group):
    """Creates, reads, lists, changes and deletes floating resources."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = QueueServiceStub(calls.channel("scheduler"))

    async def create(self, floating_resource_id: str, capacity: int, *, request_id: str = "") -> FloatingResource:
        """A new floating resource, of which there is so much. AlreadyExists."""
        request = pb.CreateFloatingResourceRequest(
            floating_resource_id=floating_resource_id,
            floating_resource=FloatingResource(capacity=capacity),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateFloatingResource, request)

    async def get(self, floating_resource: str) -> FloatingResource:
        """A floating resource by id or name, with what of it is in use."""
        request = pb.GetFloatingResourceRequest(name=floating_resource_name(floating_resource))
        return await self._calls.unary(self._stub.GetFloatingResource, request)

    def list(self, *, page_size: int = 0) -> Listing[FloatingResource]:
        """All floating resources."""

        async def page(token: str) -> Page[FloatingResource]:
            request = pb.ListFloatingResourcesRequest(page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListFloatingResources, request)
            return answer.floating_resources, answer.next_page_token

        return Listing(page)

    def watch_all(self, *, revision: int = 0) -> AsyncGenerator[Change[FloatingResource], None]:
        """The floating resources as they are, then every change of what there is of them, for ever."""
        return Watch(
            self._calls,
            FloatingResource,
            lambda position: self._stub.WatchFloatingResources(pb.WatchFloatingResourcesRequest(revision=position)),
            revision,
        ).changes()

    async def update(self, floating_resource: str, capacity: int, *, etag: str = "") -> FloatingResource:
        """Change how much there is."""
        wanted = FloatingResource(name=floating_resource_name(floating_resource), capacity=capacity, etag=etag)
        request = pb.UpdateFloatingResourceRequest(floating_resource=wanted)
        request.update_mask.paths.append("capacity")
        return await self._calls.unary(self._stub.UpdateFloatingResource, request)

    async def delete(self, floating_resource: str, *, etag: str = "") -> None:
        """Delete a floating resource that nothing asks for. FailedPrecondition."""
        request = pb.DeleteFloatingResourceRequest(name=floating_resource_name(floating_resource), etag=etag)
        await self._calls.unary(self._stub.DeleteFloatingResource, request)


def queue_name(queue: str) -> str:
    """The whole name of a queue, from that or from its id."""
    return str(QueueName.parse(queue) if "/" in queue else QueueName(queue))


def floating_resource_name(floating_resource: str) -> str:
    """The whole name of a floating resource, from that or from its id."""
    kind = FloatingResourceName
    return str(kind.parse(floating_resource) if "/" in floating_resource else kind(floating_resource))
