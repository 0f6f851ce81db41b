"""Pools and floating resources are watched as queues are: what there is, then every change, from any revision."""

import asyncio
from typing import Any

from lepton.scheduler.v1 import pool_pb2, queue_pb2
from lepton.scheduler.v1 import queue_service_pb2 as queues
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.queue_service_pb2_grpc import QueueServiceStub
from tests.harness.scheduling import Replica


async def _until_three(changes: Any, field: str) -> list[tuple[int, str]]:
    """The next three that are no bookmarks."""
    seen: list[tuple[int, str]] = []
    async for change in changes:
        if change.event != change.BOOKMARK:
            seen.append((change.event, getattr(change, field).name))
        if len(seen) == 3:
            break
    return seen


async def test_pools_are_watched_from_any_revision(replica: Replica) -> None:
    response = pb.WatchPoolsResponse
    watch: Any = replica.admin.WatchPools(pb.WatchPoolsRequest())
    async with asyncio.timeout(20):
        changes = aiter(watch)
        first, bookmark = await anext(changes), await anext(changes)
        assert (first.event, first.pool.name) == (response.CHANGED, "pools/general")
        assert bookmark.event == response.BOOKMARK
        await replica.create_pool("fast")
        labelled = pool_pb2.Pool(name="pools/fast", labels={"tier": "fast"})
        await replica.admin.UpdatePool(pb.UpdatePoolRequest(pool=labelled))
        await replica.admin.DeletePool(pb.DeletePoolRequest(name="pools/fast"))
        resumed: Any = replica.admin.WatchPools(pb.WatchPoolsRequest(revision=bookmark.revision))
        for stream in (changes, aiter(resumed)):
            assert await _until_three(stream, "pool") == [
                (response.CHANGED, "pools/fast"),
                (response.CHANGED, "pools/fast"),
                (response.DELETED, "pools/fast"),
            ]
        watch.cancel()
        resumed.cancel()


async def test_floating_resources_are_watched_from_any_revision(replica: Replica) -> None:
    stub: Any = QueueServiceStub(await replica.stack.enter_async_context(replica.mesh.client("users/root")))
    name = "floatingResources/licences"

    def made(capacity: int) -> queue_pb2.FloatingResource:
        return queue_pb2.FloatingResource(name=name, capacity=capacity)

    response = queues.WatchFloatingResourcesResponse
    watch: Any = stub.WatchFloatingResources(queues.WatchFloatingResourcesRequest())
    async with asyncio.timeout(20):
        changes = aiter(watch)
        bookmark = await anext(changes)
        assert bookmark.event == response.BOOKMARK
        create = queues.CreateFloatingResourceRequest(floating_resource_id="licences", floating_resource=made(2))
        await stub.CreateFloatingResource(create)
        await stub.UpdateFloatingResource(queues.UpdateFloatingResourceRequest(floating_resource=made(5)))
        await stub.DeleteFloatingResource(queues.DeleteFloatingResourceRequest(name=name))
        resumed: Any = stub.WatchFloatingResources(queues.WatchFloatingResourcesRequest(revision=bookmark.revision))
        for stream in (changes, aiter(resumed)):
            assert await _until_three(stream, "floating_resource") == [
                (response.CHANGED, name),
                (response.CHANGED, name),
                (response.DELETED, name),
            ]
        watch.cancel()
        resumed.cancel()
