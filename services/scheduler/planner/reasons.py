"""Why a gang has no place, with the numbers: what it asks for, what there is, and what is short."""

from collections.abc import Iterable, Sequence

from services.scheduler.planner.capacity import Capacity, FreeNode
from services.scheduler.planner.packing import Want, room
from services.scheduler.snapshot import Demand, Reason, Snapshot, Workload

_AMOUNTS: tuple[tuple[str, str], ...] = (
    ("device_milli", "thousandths of a device"),
    ("cpu_milli", "thousandths of a core"),
    ("memory_bytes", "bytes of memory"),
    ("storage_bytes", "bytes of storage"),
)


def allowed_pools(workload: Workload, snapshot: Snapshot) -> tuple[str, ...]:
    """The pools that a workload may run in and that exist, in its order of preference."""
    if not workload.pools:
        return tuple(sorted(snapshot.pools))
    return tuple(pool for pool in workload.pools if pool in snapshot.pools)


def explain(
    workload: Workload, pools: Sequence[str], wants: Sequence[Want], snapshot: Snapshot, capacity: Capacity
) -> tuple[Reason, str]:
    """The reason why these slices do not fit into any of these pools now."""
    if not pools:
        return (
            Reason.NO_MATCHING_POOL,
            f"none of the allowed pools exists: {', '.join(workload.pools) or 'there is no pool at all'}",
        )
    empty = Capacity(snapshot.nodes)
    for want in wants:
        nodes = [free for pool in pools for free in empty.pool(pool)]
        if want.least and not any(free.count(want.group.demand, 1) for free in nodes):
            return Reason.NO_MATCHING_POOL, (
                f"no node of {', '.join(pools)} can ever hold a slice of {want.group.name}, "
                f"which needs {_demand(want.group.demand)}{_largest(nodes, want.group.demand)}"
            )
    needed = sum(want.least for want in wants)
    pool, fits = max(((pool, room(capacity, pool, wants)) for pool in pools), key=lambda each: each[1])
    short = _shortages(wants, capacity.pool(pool))
    place = f"{pool} has room for {fits} of {needed} slices"
    if short:
        return Reason.WAITING_FOR_CAPACITY, f"{place}; short of {', '.join(short)}"
    return Reason.FRAGMENTED, f"{place}; enough is free in sum, but not on the nodes where whole slices fit"


def _demand(demand: Demand) -> str:
    parts = [f"{getattr(demand, name)} {words}" for name, words in _AMOUNTS if getattr(demand, name)]
    if demand.device_models:
        parts.append(f"model {' or '.join(sorted(demand.device_models))}")
    return ", ".join(parts) or "nothing"


def _largest(nodes: Iterable[FreeNode], demand: Demand) -> str:
    most = [
        f"{max((_free(free, name, demand) for free in nodes), default=0)} {words}"
        for name, words in _AMOUNTS
        if getattr(demand, name)
    ]
    return f"; the most that one has: {', '.join(most)}" if most else ""


def _shortages(wants: Sequence[Want], nodes: Iterable[FreeNode]) -> list[str]:
    nodes = list(nodes)
    short = []
    for name, words in _AMOUNTS:
        needed = sum(getattr(want.group.demand, name) * want.least for want in wants)
        free = sum(max(_free(node, name, want.group.demand) for want in wants) for node in nodes)
        if needed > free:
            short.append(f"{needed - free} {words} ({needed} needed, {free} free)")
    return short


def _free(node: FreeNode, name: str, demand: Demand) -> int:
    if name != "device_milli":
        amount: int = getattr(node, name)
        return amount
    return sum(
        left
        for index, left in node.devices.items()
        if not demand.device_models or node.models[index] in demand.device_models
    )
