"""The scheduler's RPCs: convert in, call, convert out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.secret_mounts import SecretGate
from lepton.names import NodeName, PoolName, WorkloadName
from lepton.scheduler.v1 import node_pb2, pool_pb2, scheduler_service_pb2_grpc, workload_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from services.scheduler.nodes import Nodes
from services.scheduler.pools import Pools
from services.scheduler.workload_secrets import WorkloadSecrets
from services.scheduler.workloads import Workloads


class SchedulerServicer(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """lepton.scheduler.v1.SchedulerService."""

    def __init__(self, pools: Pools, nodes: Nodes, workloads: Workloads, gate: SecretGate | None = None) -> None:
        self._secrets = WorkloadSecrets(gate)
        self._pools = pools
        self._nodes = nodes
        self._workloads = workloads

    async def CreatePool(self, request: service.CreatePoolRequest, context: Any) -> pool_pb2.Pool:
        """See the proto, as for all of them."""
        return await self._pools.create(request)

    async def GetPool(self, request: service.GetPoolRequest, context: Any) -> pool_pb2.Pool:
        return await self._pools.get(PoolName.parse(request.name))

    async def ListPools(self, request: service.ListPoolsRequest, context: Any) -> service.ListPoolsResponse:
        return await self._pools.list(request)

    async def WatchPools(
        self, request: service.WatchPoolsRequest, context: Any
    ) -> AsyncIterator[service.WatchPoolsResponse]:
        async with aclosing(self._pools.watch(request)) as changes:
            async for change in changes:
                yield change

    async def UpdatePool(self, request: service.UpdatePoolRequest, context: Any) -> pool_pb2.Pool:
        return await self._pools.update(request)

    async def DeletePool(self, request: service.DeletePoolRequest, context: Any) -> Empty:
        await self._pools.delete(PoolName.parse(request.name), request.etag)
        return Empty()

    async def GetNode(self, request: service.GetNodeRequest, context: Any) -> node_pb2.Node:
        return await self._nodes.get(NodeName.parse(request.name))

    async def ListNodes(self, request: service.ListNodesRequest, context: Any) -> service.ListNodesResponse:
        return await self._nodes.list(request)

    async def WatchNodes(
        self, request: service.WatchNodesRequest, context: Any
    ) -> AsyncIterator[service.WatchNodesResponse]:
        async with aclosing(self._nodes.watch(request)) as changes:
            async for change in changes:
                yield change

    async def UpdateNode(self, request: service.UpdateNodeRequest, context: Any) -> node_pb2.Node:
        return await self._nodes.update(request)

    async def CreateWorkload(self, request: service.CreateWorkloadRequest, context: Any) -> workload_pb2.Workload:
        await self._secrets.admit(request.parent, [request.workload])
        return await self._workloads.create(request)

    async def BatchCreateWorkloads(
        self, request: service.BatchCreateWorkloadsRequest, context: Any
    ) -> service.BatchCreateWorkloadsResponse:
        await self._secrets.admit(request.parent, (each.workload for each in request.requests))
        return await self._workloads.create_many(request)

    async def GetWorkload(self, request: service.GetWorkloadRequest, context: Any) -> workload_pb2.Workload:
        return await self._workloads.get(WorkloadName.parse(request.name))

    async def ListWorkloads(self, request: service.ListWorkloadsRequest, context: Any) -> service.ListWorkloadsResponse:
        return await self._workloads.list(request)

    async def WatchWorkloads(
        self, request: service.WatchWorkloadsRequest, context: Any
    ) -> AsyncIterator[service.WatchWorkloadsResponse]:
        async with aclosing(self._workloads.watch(request)) as changes:
            async for change in changes:
                yield change

    async def UpdateWorkload(self, request: service.UpdateWorkloadRequest, context: Any) -> workload_pb2.Workload:
        await self._secrets.admit_update(request)
        return await self._workloads.update(request)

    async def CancelWorkload(self, request: service.CancelWorkloadRequest, context: Any) -> workload_pb2.Workload:
        return await self._workloads.cancel(WorkloadName.parse(request.name), request.grace_s)

    async def SetAdmissionCheck(self, request: service.SetAdmissionCheckRequest, context: Any) -> workload_pb2.Workload:
        return await self._workloads.set_admission_check(request)

    async def ReportWorkloadProgress(self, request: service.ReportWorkloadProgressRequest, context: Any) -> Empty:
        await self._workloads.report_progress(request)
        return Empty()

    async def DeleteWorkload(self, request: service.DeleteWorkloadRequest, context: Any) -> Empty:
        await self._workloads.delete(WorkloadName.parse(request.name), request.etag)
        return Empty()
