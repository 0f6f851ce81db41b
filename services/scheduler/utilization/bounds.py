"""How much of each resource something may use at the most: capacity of machines, or quota."""

from collections.abc import Iterable
from typing import Final

from services.scheduler.planner.quota import queue_of_project
from services.scheduler.queue_values import Quota
from services.scheduler.snapshot import Snapshot
from services.scheduler.utilization.amounts import RESOURCES, ZERO, Amounts, add, of_node

_EVERYWHERE: Final = ""  # instead of a pool


def bounds(name: str, snapshot: Snapshot) -> Amounts:
    """Of a pool or node what it has, of a queue its nominal quota, of a project its limit; 0 = not bounded."""
    if name in snapshot.nodes:
        return of_node(snapshot.nodes[name])
    if name in snapshot.queues:
        return _quotas(snapshot.queues[name].quotas)
    if name.startswith("projects/"):
        queue = snapshot.queues.get(queue_of_project(name, snapshot.queues))
        return _quotas(queue.project_limits) if queue is not None else [*ZERO]
    total = [*ZERO]
    for node in snapshot.nodes.values():
        if node.pool == name:
            add(total, of_node(node))
    return total


def _quotas(quotas: Iterable[Quota]) -> Amounts:
    """One quota over all pools bounds all use; else those of the single pools do together."""
    by_resource: dict[str, dict[str, int]] = {}
    for quota in quotas:
        by_resource.setdefault(quota.resource, {})[quota.pool] = quota.nominal
    return [
        float(pools.get(_EVERYWHERE, sum(pools.values())))
        for pools in (by_resource.get(resource, {}) for resource in RESOURCES)
    ]
