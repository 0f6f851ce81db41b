"""What workloads use, as queues count it: amounts per flavour (a pool) and resource."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from services.scheduler.lifecycle import FINAL
from services.scheduler.planner.ask import Ask, Spot
from services.scheduler.planner.shares import AMOUNTS
from services.scheduler.snapshot import Assignment, Demand, Node, Reservation, Snapshot, Workload

Cell: TypeAlias = tuple[str, str]  # a flavour (a pool; empty = all pools together) and a resource
Use: TypeAlias = Mapping[Cell, int]


def use_of(workload: Workload, pool: str, counts: Mapping[str, int]) -> dict[Cell, int]:
    """What so many slices of each group use; an empty pool = it is not known yet in which one."""
    use: dict[Cell, int] = {}
    for group in workload.groups:
        _add(use, pool, group.demand, counts.get(group.name, 0))
    return use


def least_use(workload: Workload, pool: str | None = None) -> dict[Cell, int]:
    """What the least of every group uses, in this pool or, not given, in the one that it prefers."""
    if pool is None:
        pool = workload.pools[0] if workload.pools else ""
    return use_of(workload, pool, {group.name: group.min_count for group in workload.groups})


def use_of_ask(workload: Workload, ask: Ask) -> Use:
    """What the least that is asked for uses of a quota."""
    return use_of(workload, ask.pool, {want.group.name: want.least for want in ask.wants})


def use_of_spots(workload: Workload, pool: str, spots: Sequence[Spot]) -> Use:
    """What places use of a quota."""
    counts: dict[str, int] = {}
    for each in spots:
        counts[each.group] = counts.get(each.group, 0) + 1
    return use_of(workload, pool, counts)


def held_by(generations: Sequence[Assignment]) -> dict[Cell, int]:
    """What a workload's slices hold: all that have not ended, those that are being stopped too; oldest first."""
    use: dict[Cell, int] = {}
    handed_over: frozenset[int] = frozenset()
    for assignment in reversed(generations):
        counts: dict[str, int] = {}
        for each in assignment.slices:
            if each.state not in FINAL and each.index not in handed_over:
                counts[each.group] = counts.get(each.group, 0) + 1
        for group, count in counts.items():
            _add(use, assignment.pool, assignment.groups[group].demand, count)
        handed_over = assignment.kept
    return use


def reserved_by(reservation: Reservation) -> dict[Cell, int]:
    """What a reservation's places use."""
    use: dict[Cell, int] = {}
    for each in reservation.slices:
        _add(use, reservation.pool, reservation.demands[each.group], 1)
    return use


def capacity_of(snapshot: Snapshot) -> dict[Cell, int]:
    """What the nodes have, per pool and in all."""
    by_pool: dict[str, list[Node]] = {}
    for node in snapshot.nodes.values():
        by_pool.setdefault(node.pool, []).append(node)
    total: dict[Cell, int] = {}
    for pool, nodes in by_pool.items():
        sums = {
            "cpu_milli": sum([node.cpu_milli for node in nodes]),
            "memory_bytes": sum([node.memory_bytes for node in nodes]),
            "storage_bytes": sum([node.storage_bytes for node in nodes]),
            "network_mbps": sum([node.network_mbps for node in nodes]),
            "device_milli": sum([len(node.devices) for node in nodes]) * 1000,
        }
        for resource in AMOUNTS:
            if amount := sums[resource]:
                total[pool, resource] = amount
                total["", resource] = total.get(("", resource), 0) + amount
    return total


def with_total(use: Use) -> dict[Cell, int]:
    """A use per pool, with the same of all pools together."""
    cells: dict[Cell, int] = {}
    for (pool, resource), amount in use.items():
        if not amount:
            continue
        if pool:
            cells[pool, resource] = cells.get((pool, resource), 0) + amount
        cells["", resource] = cells.get(("", resource), 0) + amount
    return cells


def dominant(use: Use, total: Use) -> float:
    """The largest fraction of any one cell; a cell of which there is nothing does not count."""
    return max((amount / total[cell] for cell, amount in use.items() if total.get(cell)), default=0.0)


def _add(use: dict[Cell, int], pool: str, demand: Demand, count: int) -> None:
    for resource, amount in _amounts(demand):
        cell = (pool, resource)
        use[cell] = use.get(cell, 0) + amount * count


def _amounts(demand: Demand) -> Iterator[tuple[str, int]]:
    if demand.cpu_milli:
        yield "cpu_milli", demand.cpu_milli
    if demand.memory_bytes:
        yield "memory_bytes", demand.memory_bytes
    if demand.storage_bytes:
        yield "storage_bytes", demand.storage_bytes
    if demand.network_mbps:
        yield "network_mbps", demand.network_mbps
    if demand.device_milli:
        yield "device_milli", demand.device_milli
