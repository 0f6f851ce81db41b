"""Between the protos and the values of the programs; what the protos' own rules cannot say is checked here."""

from collections.abc import Iterable, Mapping
from math import inf, isfinite
from typing import Any, Final

from lepton.errors import InvalidArgument
from lepton.scheduler.v1 import planning_service_pb2 as pb
from lepton.scheduler.v1 import pool_pb2
from services.scheduler.planning.demand import Allocation, Demand, Source
from services.scheduler.planning.fleet_sources import RESOURCES
from services.scheduler.planning.scaling import Elastic, Step
from services.scheduler.planning.spread import PolicyName, Spread, Stream, Target

_MOST_UNITS: Final = 2**31 - 1


def demands_of(request: pb.PlanAllocationRequest) -> list[Demand]:
    """What is asked for."""
    wrong = _repeated("demands", (each.name for each in request.demands))
    for index, each in enumerate(request.demands):
        wrong |= _amounts(f"demands[{index}].amounts", each.amounts)
        if all(value == 0 for value in each.amounts.values()):
            wrong[f"demands[{index}].amounts"] = "must name at least one resource with an amount above 0"
    _check(wrong)
    return [
        Demand(
            name=each.name,
            amounts={resource: value for resource, value in sorted(each.amounts.items()) if value > 0},
            kinds=frozenset(each.classes),
        )
        for each in request.demands
    ]


def sources_of(request: pb.PlanAllocationRequest) -> list[Source]:
    """Where there is capacity, as far as the request says."""
    wrong = _repeated("sources", (each.name for each in request.sources))
    for index, each in enumerate(request.sources):
        wrong |= _amounts(f"sources[{index}].capacity", each.capacity)
        wrong |= _amounts(f"sources[{index}].price", each.price)
    _check(wrong)
    return [
        Source(
            name=each.name,
            nodes=each.nodes,
            capacity=dict(each.capacity),
            price=dict(each.price),
            kind=getattr(each, "class"),
        )
        for each in request.sources
    ]


def classes_of(pools: Mapping[str, pool_pb2.Pool]) -> dict[str, str]:
    """The class of each pool of the fleet."""
    name = pool_pb2.Pool.Class.Name
    return {pool: name(getattr(each, "class") or pool_pb2.Pool.GENERAL) for pool, each in pools.items()}


def check_known(demands: Iterable[Demand]) -> None:
    """Demands on the fleet's own pools speak of the fleet's own resources and classes."""
    wrong: dict[str, str] = {}
    for index, each in enumerate(demands):
        for resource in sorted(each.amounts.keys() - set(RESOURCES)):
            wrong[f'demands[{index}].amounts["{resource}"]'] = (
                f"is no resource of the fleet: use {', '.join(RESOURCES)}, or give sources that have it"
            )
        for kind in sorted(each.kinds - set(pool_pb2.Pool.Class.keys())):
            wrong[f"demands[{index}].classes"] = (
                f"{kind} is no class of pools: use {', '.join(pool_pb2.Pool.Class.keys()[1:])}, or give sources of it"
            )
    _check(wrong)


def allocation_to_proto(found: Allocation) -> pb.PlanAllocationResponse:
    """An allocation on the wire."""
    grants = (
        pb.PlanAllocationResponse.Grant(
            demand=each.demand, source=each.source, amounts=each.amounts, per_node=each.per_node
        )
        for each in found.grants
    )
    return pb.PlanAllocationResponse(
        feasible=found.is_feasible, grants=grants, cost=found.cost, violated=found.violated
    )


def elastic_of(request: pb.PlanScalingRequest) -> Elastic:
    """How far to scale."""
    wrong: dict[str, str] = {}
    if request.max_step and request.min_step > request.max_step:
        wrong["min_step"] = f"must not exceed max_step ({request.max_step:g}), else no step is allowed at all"
    if request.max_units and request.min_units > request.max_units:
        wrong["min_units"] = f"must not exceed max_units ({request.max_units})"
    if not request.unit:
        for field in ("min_units", "max_units"):
            if getattr(request, field):
                wrong[field] = "counts units: give `unit`, the capacity of one"
    elif (max(request.load, request.base) + request.min_step) / request.unit >= _MOST_UNITS:
        wrong["unit"] = f"is so small that more than {_MOST_UNITS} of it were needed; measure in larger ones"
    _check(wrong)
    return Elastic(
        load=request.load,
        base=request.base,
        max_step=request.max_step or inf,
        min_step=request.min_step,
        unit=request.unit,
        min_units=request.min_units,
        max_units=request.max_units or None,
    )


def scaling_to_proto(step: Step) -> pb.PlanScalingResponse:
    """A step on the wire."""
    return pb.PlanScalingResponse(
        feasible=step.is_feasible,
        target=step.target,
        change=step.change,
        units=step.units,
        load_per_unit=step.load_per_unit,
        violated=step.violated,
    )


def stream_of(request: pb.PlanBalancingRequest) -> Stream:
    """Which requests are spread, and how."""
    _check(_repeated("targets", (each.name for each in request.targets)))
    targets = tuple(Target(name=each.name, weight=each.weight or 1.0) for each in request.targets)
    return Stream(
        policy=PolicyName(request.policy or PolicyName.ROUND_ROBIN),
        targets=targets,
        requests=request.requests or 1000,
        concurrency=request.concurrency or 2 * len(targets),
        seed=request.seed,
    )


def spread_to_proto(found: Spread) -> pb.PlanBalancingResponse:
    """What all get, on the wire."""
    shares = (
        pb.PlanBalancingResponse.Share(
            target=each.target.name,
            requests=each.requests,
            share=each.share,
            ideal=each.ideal,
            peak_open=each.peak_open,
        )
        for each in found.shares
    )
    return pb.PlanBalancingResponse(shares=shares, makespan=found.makespan)


def _amounts(path: str, amounts: Mapping[str, float]) -> dict[str, str]:
    return {
        f'{path}["{resource}"]': "must be a number from 0 to 1e18"
        for resource, value in sorted(amounts.items())
        if not isfinite(value) or not 0 <= value <= 1e18
    }


def _repeated(path: str, names: Iterable[str]) -> dict[str, str]:
    seen: set[str] = set()
    wrong: dict[str, str] = {}
    for index, name in enumerate(names):
        if name in seen:
            wrong[f"{path}[{index}].name"] = f"{name} is there already; every name must be another"
        seen.add(name)
    return wrong


def _check(wrong: dict[str, Any]) -> None:
    if wrong:
        raise InvalidArgument("INVALID_FIELD", fields=wrong)
