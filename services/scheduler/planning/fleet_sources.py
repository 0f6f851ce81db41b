"""The fleet's own pools as sources: what is free on the nodes on which work may be placed, at price 1."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from services.scheduler.planner.holdings import holdings
from services.scheduler.planning.demand import Source
from services.scheduler.snapshot import Demand, Node, Snapshot

RESOURCES: Final = ("cpu_milli", "memory_bytes", "storage_bytes", "device_milli", "network_mbps")
_GRAINS: Final = (0, 64, 16, 4, 1)  # of a node: 0 = as exact as it is
_MOST: Final = 500  # sources; nodes that are nearly alike are taken for alike beyond that


def sources_of(snapshot: Snapshot, kinds: Mapping[str, str]) -> tuple[Source, ...]:
    """A source for each pool, or several where its nodes have not equally much left: `pools/general#2`, fullest last.

    `kinds` names the pools' classes. A source's machines are alike, so that an even share of it fits on each of them.
    On a large and busy fleet nodes that are nearly alike are counted with what the least of them has.
    """
    free = _free(snapshot)
    for grain in _GRAINS:
        alike: dict[tuple[str, tuple[int, ...]], int] = defaultdict(int)
        for name, left in free.items():
            node = snapshot.nodes[name]
            kept = (_floored(have, whole, grain) for have, whole in zip(left, _all(node), strict=True))
            alike[node.pool, tuple(kept)] += 1
        if len(alike) <= _MOST:
            break
    by_pool: dict[str, list[tuple[tuple[int, ...], int]]] = defaultdict(list)
    for (pool, shape), count in sorted(alike.items(), reverse=True):
        if any(shape):
            by_pool[pool].append((shape, count))
    return tuple(
        Source(
            name=f"{pool}#{number}" if len(shapes) > 1 else pool,
            nodes=count,
            capacity={resource: float(have) for resource, have in zip(RESOURCES, shape, strict=True) if have},
            kind=kinds.get(pool, "GENERAL"),
        )
        for pool, shapes in sorted(by_pool.items())
        for number, (shape, count) in enumerate(shapes, start=1)
    )


def _free(snapshot: Snapshot) -> dict[str, list[int]]:
    """What each node on which work may be placed has left."""
    free = {name: list(_all(node)) for name, node in snapshot.nodes.items() if node.is_schedulable}
    for generations in snapshot.assignments.values():
        for assignment, each in holdings(generations, snapshot.nodes):
            left = free.get(each.node)
            if left is not None:
                for index, taken in enumerate(_taken(assignment.groups[each.group].demand)):
                    left[index] -= taken
    return free


def _taken(demand: Demand) -> tuple[int, ...]:
    return (demand.cpu_milli, demand.memory_bytes, demand.storage_bytes, demand.device_milli, demand.network_mbps)


def _all(node: Node) -> tuple[int, ...]:
    return (node.cpu_milli, node.memory_bytes, node.storage_bytes, 1000 * len(node.devices), node.network_mbps)


def _floored(have: int, whole: int, grain: int) -> int:
    """What is left, rounded down to a part of the whole."""
    if not grain or not whole:
        return max(0, have)
    return max(0, have) * grain // whole * whole // grain
