"""Why a gang has no place, with the numbers: what it asks for, what there is, and what is short."""

from collections.abc import Sequence
from dataclasses import replace

from services.scheduler.planner.ask import Ask, Want
from services.scheduler.planner.fleet import Fleet
from services.scheduler.snapshot import Demand, Node, Reason, Snapshot, Workload
from services.scheduler.units import RESOURCES, amount_in_full, number


def allowed_pools(workload: Workload, snapshot: Snapshot) -> tuple[str, ...]:
    """The pools that a workload may run in and that exist, in its order of preference."""
    if not workload.pools:
        return tuple(sorted(snapshot.pools))
    return tuple(pool for pool in workload.pools if pool in snapshot.pools)


def no_pool(workload: Workload) -> tuple[Reason, str]:
    """None of its pools exists."""
    wished = ", ".join(workload.pools) or "there is no pool at all"
    return Reason.NO_MATCHING_POOL, f"none of the allowed pools exists: {wished}"


def explain(asks: Sequence[Ask], snapshot: Snapshot, fleet: Fleet) -> tuple[Reason, str]:
    """The reason why none of these asks, which differ in the pool only, fits now."""
    pools = ", ".join(ask.pool for ask in asks)
    for want in asks[0].wants:
        if want.least and not any(fleet.ever_fits(_one(ask, want)) for ask in asks):
            nodes = [node for node in snapshot.nodes.values() if any(node.pool == ask.pool for ask in asks)]
            return Reason.NO_MATCHING_POOL, (
                f"no node of {pools} can ever hold a slice of {want.group.name}, "
                f"which needs {_demand(want.group.demand)}{_largest(nodes, want.group.demand)}"
            )
    needed = sum(want.least for want in asks[0].wants)
    fits, ask = max(((fleet.room(ask), ask) for ask in asks), key=lambda each: each[0])
    place = f"{ask.pool} has room for {fits} of {needed} slices"
    short = [
        f"{amount_in_full(each.resource, each.needed - each.free)} "
        f"({number(each.resource, each.needed)} needed, {number(each.resource, each.free)} free)"
        for each in fleet.shortages(ask)
    ]
    if short:
        return Reason.WAITING_FOR_CAPACITY, f"{place}; short of {', '.join(short)}"
    if ask.topology is not None and ask.topology.is_required and _fits(replace(ask, topology=None), fleet):
        return Reason.TOPOLOGY_PLACEMENT_FAILED, f"it would fit, but not within one {ask.topology.level}"
    return Reason.FRAGMENTED, f"{place}; enough is free in sum, but not on the nodes where whole slices fit"


def _one(ask: Ask, want: Want) -> Ask:
    """The same for a single slice."""
    return replace(ask, wants=(Want(group=want.group, least=1, most=1),), topology=None, near=())


def _fits(ask: Ask, fleet: Fleet) -> bool:
    mark = fleet.mark()
    found = fleet.place(ask) is not None
    fleet.undo(mark)
    return found


def _demand(demand: Demand) -> str:
    parts = [amount_in_full(name, getattr(demand, name)) for name in RESOURCES if getattr(demand, name)]
    if demand.device_models:
        parts.append(f"model {' or '.join(sorted(demand.device_models))}")
    return ", ".join(parts) or "nothing"


def _largest(nodes: Sequence[Node], demand: Demand) -> str:
    most = [
        amount_in_full(name, max((_capacity(node, name, demand) for node in nodes), default=0))
        for name in RESOURCES
        if getattr(demand, name)
    ]
    return f"; the most that one has: {', '.join(most)}" if most else ""


def _capacity(node: Node, name: str, demand: Demand) -> int:
    if name != "device_milli":
        amount: int = getattr(node, name)
        return amount
    return sum(1000 for device in node.devices if not demand.device_models or device.model in demand.device_models)
