"""`client.planning`: programs that answer what would be best; nothing here changes anything."""

from collections.abc import Iterable, Mapping

from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.scope import Scope
from lepton.scheduler.v1 import planning_service_pb2 as pb
from lepton.scheduler.v1.planning_service_pb2_grpc import PlanningServiceStub


class Planning(Group):
    """Plans allocations, scaling and the spreading of requests."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = PlanningServiceStub(calls.channel("scheduler"))

    async def allocation(
        self,
        demands: Iterable[pb.PlanAllocationRequest.Demand],
        sources: Iterable[pb.PlanAllocationRequest.Source] = (),
    ) -> pb.PlanAllocationResponse:
        """The cheapest allocation of demands to sources (default: what is free in the fleet's own pools).

        When not all can be met it is the nearest plan, with what stands in the way. InvalidArgument.
        """
        request = pb.PlanAllocationRequest(demands=demands, sources=sources)
        return await self._calls.unary(self._stub.PlanAllocation, request)

    async def scaling(
        self,
        load: float,
        base: float,
        *,
        max_step: float = 0.0,
        min_step: float = 0.0,
        unit: float = 0.0,
        min_units: int = 0,
        max_units: int = 0,
    ) -> pb.PlanScalingResponse:
        """How far to grow or shrink from `base` for a load, in one step; 0 = no limit. InvalidArgument."""
        request = pb.PlanScalingRequest(
            load=load,
            base=base,
            max_step=max_step,
            min_step=min_step,
            unit=unit,
            min_units=min_units,
            max_units=max_units,
        )
        return await self._calls.unary(self._stub.PlanScaling, request)

    async def balancing(
        self,
        policy: pb.PlanBalancingRequest.Policy.ValueType,
        weights: Mapping[str, float],
        *,
        requests: int = 0,
        concurrency: int = 0,
        seed: int = 0,
    ) -> pb.PlanBalancingResponse:
        """How a policy would spread requests over targets of these weights. InvalidArgument."""
        targets = (pb.PlanBalancingRequest.Target(name=name, weight=weight) for name, weight in weights.items())
        request = pb.PlanBalancingRequest(
            policy=policy, targets=targets, requests=requests, concurrency=concurrency, seed=seed
        )
        return await self._calls.unary(self._stub.PlanBalancing, request)
