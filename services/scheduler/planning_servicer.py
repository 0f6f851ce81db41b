"""The RPCs that ask the planner: convert in, call, convert out."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from lepton.scheduler.v1 import planning_service_pb2 as pb
from lepton.scheduler.v1 import planning_service_pb2_grpc
from services.scheduler.ledger import Ledger
from services.scheduler.planning import conversion
from services.scheduler.planning.allocation import allocate
from services.scheduler.planning.demand import Demand, Source
from services.scheduler.planning.fleet_sources import sources_of
from services.scheduler.planning.scaling import scale
from services.scheduler.planning.spread import spread


class Explainer(Protocol):
    """Who answers why, and what if."""

    async def explain(self, request: pb.ExplainWorkloadRequest) -> pb.ExplainWorkloadResponse:
        """Why a workload waits."""
        ...

    async def what_if(self, request: pb.WhatIfRequest) -> pb.WhatIfResponse:
        """What a change would change."""
        ...


class UtilizationReader(Protocol):
    """Who answers how much is used."""

    async def get(self, request: pb.GetUtilizationRequest) -> pb.GetUtilizationResponse:
        """The use of a pool, node, queue or project over time."""
        ...


class PlanningServicer(planning_service_pb2_grpc.PlanningServiceServicer):
    """lepton.scheduler.v1.PlanningService."""

    def __init__(self, ledger: Ledger, explain: Explainer, utilization: UtilizationReader, *, fence_s: float) -> None:
        self._ledger = ledger
        self._explain = explain
        self._utilization = utilization
        self._fence_s = fence_s
        self._one = asyncio.Semaphore(1)  # a program takes a core: several at once would take it from the leader

    async def ExplainWorkload(self, request: pb.ExplainWorkloadRequest, context: Any) -> pb.ExplainWorkloadResponse:
        """See the proto, as for all of them."""
        return await self._explain.explain(request)

    async def WhatIf(self, request: pb.WhatIfRequest, context: Any) -> pb.WhatIfResponse:
        return await self._explain.what_if(request)

    async def GetUtilization(self, request: pb.GetUtilizationRequest, context: Any) -> pb.GetUtilizationResponse:
        return await self._utilization.get(request)

    async def PlanAllocation(self, request: pb.PlanAllocationRequest, context: Any) -> pb.PlanAllocationResponse:
        demands: Sequence[Demand] = conversion.demands_of(request)
        sources: Sequence[Source] = conversion.sources_of(request)
        if not sources:
            conversion.check_known(demands)
            sources = sources_of(self._ledger.snapshot(self._fence_s), conversion.classes_of(self._ledger.pools))
        async with self._one:
            # The solver takes up to seconds, and lets go of the interpreter's lock meanwhile.
            return conversion.allocation_to_proto(await asyncio.to_thread(allocate, demands, sources))

    async def PlanScaling(self, request: pb.PlanScalingRequest, context: Any) -> pb.PlanScalingResponse:
        return conversion.scaling_to_proto(scale(conversion.elastic_of(request)))

    async def PlanBalancing(self, request: pb.PlanBalancingRequest, context: Any) -> pb.PlanBalancingResponse:
        stream = conversion.stream_of(request)
        async with self._one:
            # Up to two million comparisons: too long for the loop.
            return conversion.spread_to_proto(await asyncio.to_thread(spread, stream))
