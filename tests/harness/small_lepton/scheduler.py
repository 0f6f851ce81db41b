"""Pools, nodes, workloads and queues as tables; planning as the scheduler itself does it."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty

from lepton.names import not_found
from lepton.scheduler.v1 import (
    planning_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
)
from lepton.scheduler.v1.node_pb2 import Node
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.queue_pb2 import FloatingResource, Queue
from lepton.scheduler.v1.workload_pb2 import Workload
from services.scheduler.planning import conversion
from services.scheduler.planning.allocation import allocate
from services.scheduler.planning.scaling import scale
from services.scheduler.planning.spread import spread
from tests.harness.small_lepton.servicer import Servicer
from tests.harness.small_lepton.tables import updated


class Scheduler(Servicer, scheduler_service_pb2_grpc.SchedulerServiceServicer):
    async def CreatePool(self, request: Any, context: Any) -> Any:
        request.pool.name = f"pools/{request.pool_id}"
        return self.world.once(request, lambda: self.world.table(Pool).add(request.pool))

    async def GetPool(self, request: Any, context: Any) -> Any:
        return self.world.table(Pool).get(request.name)

    async def ListPools(self, request: Any, context: Any) -> Any:
        return scheduler_service_pb2.ListPoolsResponse(**self.world.table(Pool).page("pools/", request, "pools"))

    async def UpdatePool(self, request: Any, context: Any) -> Any:
        return updated(self.world.table(Pool), request.pool, request.update_mask.paths)

    async def GetNode(self, request: Any, context: Any) -> Any:
        return self.world.table(Node).get(request.name)

    async def UpdateNode(self, request: Any, context: Any) -> Any:
        return updated(self.world.table(Node), request.node, request.update_mask.paths)

    async def ListNodes(self, request: Any, context: Any) -> Any:
        page = self.world.table(Node).page(request.parent.removesuffix("-"), request, "nodes")
        return scheduler_service_pb2.ListNodesResponse(**page)

    async def WatchNodes(self, request: Any, context: Any) -> AsyncIterator[Any]:
        prefix = request.parent.removesuffix("-")
        async for event, revision, node in self.world.table(Node).watch(prefix, request.revision):
            yield scheduler_service_pb2.WatchNodesResponse(event=event, revision=revision, node=node)

    async def CreateWorkload(self, request: Any, context: Any) -> Any:
        request.workload.name = f"{request.parent}/workloads/{request.workload_id}"
        return self.world.once(request, lambda: self.world.table(Workload).add(request.workload))

    async def GetWorkload(self, request: Any, context: Any) -> Any:
        return self.world.table(Workload).get(request.name)

    async def UpdateWorkload(self, request: Any, context: Any) -> Any:
        return updated(self.world.table(Workload), request.workload, request.update_mask.paths)

    async def ListWorkloads(self, request: Any, context: Any) -> Any:
        page = self.world.table(Workload).page(request.parent.removesuffix("-"), request, "workloads")
        return scheduler_service_pb2.ListWorkloadsResponse(**page)

    async def WatchWorkloads(self, request: Any, context: Any) -> AsyncIterator[Any]:
        prefix = request.parent.removesuffix("-")
        async for event, revision, workload in self.world.table(Workload).watch(prefix, request.revision):
            yield scheduler_service_pb2.WatchWorkloadsResponse(event=event, revision=revision, workload=workload)


class Queues(Servicer, queue_service_pb2_grpc.QueueServiceServicer):
    async def CreateQueue(self, request: Any, context: Any) -> Any:
        request.queue.name = f"queues/{request.queue_id}"
        return self.world.once(request, lambda: self.world.table(Queue).add(request.queue))

    async def GetQueue(self, request: Any, context: Any) -> Any:
        return self.world.table(Queue).get(request.name)

    async def ListQueues(self, request: Any, context: Any) -> Any:
        return queue_service_pb2.ListQueuesResponse(**self.world.table(Queue).page("queues/", request, "queues"))

    async def WatchQueues(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for event, revision, queue in self.world.table(Queue).watch("queues/", request.revision):
            yield queue_service_pb2.WatchQueuesResponse(event=event, revision=revision, queue=queue)

    async def UpdateQueue(self, request: Any, context: Any) -> Any:
        return updated(self.world.table(Queue), request.queue, request.update_mask.paths)

    async def DeleteQueue(self, request: Any, context: Any) -> Any:
        self.world.table(Queue).remove(request.name)
        return Empty()

    async def CreateFloatingResource(self, request: Any, context: Any) -> Any:
        request.floating_resource.name = f"floatingResources/{request.floating_resource_id}"
        return self.world.once(request, lambda: self.world.table(FloatingResource).add(request.floating_resource))

    async def GetFloatingResource(self, request: Any, context: Any) -> Any:
        return self.world.table(FloatingResource).get(request.name)

    async def ListFloatingResources(self, request: Any, context: Any) -> Any:
        page = self.world.table(FloatingResource).page("floatingResources/", request, "floating_resources")
        return queue_service_pb2.ListFloatingResourcesResponse(**page)

    async def UpdateFloatingResource(self, request: Any, context: Any) -> Any:
        return updated(self.world.table(FloatingResource), request.floating_resource, request.update_mask.paths)

    async def DeleteFloatingResource(self, request: Any, context: Any) -> Any:
        self.world.table(FloatingResource).remove(request.name)
        return Empty()


class Planning(Servicer, planning_service_pb2_grpc.PlanningServiceServicer):
    async def ExplainWorkload(self, request: Any, context: Any) -> Any:
        if request.name not in self.world.explanations:
            raise not_found(request.name)
        return self.world.explanations[request.name]

    async def WhatIf(self, request: Any, context: Any) -> Any:
        return self.world.what_if

    async def PlanAllocation(self, request: Any, context: Any) -> Any:
        demands, sources = conversion.demands_of(request), conversion.sources_of(request)
        return conversion.allocation_to_proto(allocate(demands, sources))

    async def PlanScaling(self, request: Any, context: Any) -> Any:
        return conversion.scaling_to_proto(scale(conversion.elastic_of(request)))

    async def PlanBalancing(self, request: Any, context: Any) -> Any:
        return conversion.spread_to_proto(spread(conversion.stream_of(request)))

    async def GetUtilization(self, request: Any, context: Any) -> Any:
        if request.name not in self.world.utilization:
            raise not_found(request.name)
        return self.world.utilization[request.name]
