"""What a workload is short of, in numbers: machines by pool, quota by queue, floating resources."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.scheduler.planner.holdings import holdings
from services.scheduler.planner.quota import Quotas, project_of, queue_of
from services.scheduler.planner.reasons import allowed_pools
from services.scheduler.planner.use import least_use
from services.scheduler.snapshot import Demand, Effect, Node, Reason, Snapshot, Taint, Workload

RESOURCES: Final = ("device_milli", "cpu_milli", "memory_bytes", "storage_bytes", "network_mbps")
OF_MACHINES: Final = frozenset(
    {
        Reason.NO_MATCHING_POOL,
        Reason.WAITING_FOR_CAPACITY,
        Reason.FRAGMENTED,
        Reason.TOPOLOGY_PLACEMENT_FAILED,
        Reason.WAITING_FOR_PREEMPTED,
        Reason.BEHIND_RESERVATION,
    }
)
OF_QUOTAS: Final = frozenset({Reason.EXCEEDS_MAX_QUOTA, Reason.WAITING_FOR_QUOTA})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One thing that is short."""

    resource: str  # a field of Demand, or the name of a floating resource
    needed: int
    available: int
    pool: str = ""
    queue: str = ""  # whose quota it is; empty = the machines


def gaps(snapshot: Snapshot, workload: Workload) -> tuple[Gap, ...]:
    """What is short for a workload that waits: floating resources, then quotas, then its pools as it prefers them."""
    found = _floating(snapshot, workload)
    if workload.reason in OF_QUOTAS:
        found += _quotas(snapshot, workload)
    if workload.reason in OF_MACHINES:
        for pool in allowed_pools(workload, snapshot):
            found += _pool(snapshot, workload, pool)
    return tuple(found)


def is_usable(node: Node, workload: Workload) -> bool:
    """Whether slices of this workload may be placed on this node at all."""
    return (
        node.is_schedulable
        and all(node.labels.get(label) == value for label, value in workload.selector)
        and not any(is_barred(taint, workload) for taint in node.taints)
    )


def is_barred(taint: Taint, workload: Workload) -> bool:
    """Whether this taint keeps the workload away."""
    return taint.effect is not Effect.PREFER_NO_SCHEDULE and not any(
        each.key in ("", taint.key) and each.value in ("", taint.value) for each in workload.tolerations
    )


def amount(node: Node, resource: str, demand: Demand) -> int:
    """How much of a resource a node has for slices of this demand, when it is empty."""
    if resource != "device_milli":
        has: int = getattr(node, resource)
        return has
    return 1000 * sum(not demand.device_models or each.model in demand.device_models for each in node.devices)


def held(snapshot: Snapshot, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """What the slices of these workloads hold, by node and resource."""
    total: dict[str, dict[str, int]] = {}
    for name in names:
        for assignment, each in holdings(snapshot.assignments.get(name, ()), snapshot.nodes):
            here = total.setdefault(each.node, dict.fromkeys(RESOURCES, 0))
            demand = assignment.groups[each.group].demand
            for resource in RESOURCES:
                here[resource] += getattr(demand, resource)
    return total


def floating_in_use(snapshot: Snapshot, but: str) -> dict[str, int]:
    """What admitted workloads hold of floating resources, leaving one workload out."""
    total: dict[str, int] = {}
    for name, generations in snapshot.assignments.items():
        if name != but and name in snapshot.workloads and any(not each.revoked for each in generations):
            for resource, count in snapshot.workloads[name].floating:
                total[resource] = total.get(resource, 0) + count
    return total


def _floating(snapshot: Snapshot, workload: Workload) -> list[Gap]:
    if not workload.floating:
        return []
    used = floating_in_use(snapshot, workload.name)
    return [
        Gap(resource=name, needed=count, available=free)
        for name, count in workload.floating
        if (free := max(0, snapshot.floating.get(name, 0) - used.get(name, 0))) < count
    ]


def _quotas(snapshot: Snapshot, workload: Workload) -> list[Gap]:
    """What the bounds of its queue, and of those above, lack for it in the pool for which they lack the least."""
    quotas = Quotas.of(snapshot)
    quotas.release(workload.name)
    queue, project = queue_of(workload, snapshot), project_of(workload.name)
    fits = [quotas.fit(queue, project, least_use(workload, pool)) for pool in allowed_pools(workload, snapshot)]
    best = min(fits, key=lambda each: (each.kind, len(each.gaps)), default=None)
    return [
        Gap(queue=each.queue, pool=each.pool, resource=each.resource, needed=each.needed, available=each.available)
        for each in (best.gaps if best else ())
        if each.resource
    ]


def _pool(snapshot: Snapshot, workload: Workload, pool: str) -> list[Gap]:
    """The resources that are short in sum; when none is, those that no single node has enough of for a slice."""
    nodes = [node for node in snapshot.nodes.values() if node.pool == pool and is_usable(node, workload)]
    used = held(snapshot, (name for name in snapshot.assignments if name != workload.name))
    return _in_sum(workload, pool, nodes, used) or _on_one_node(workload, pool, nodes, used)


def _in_sum(workload: Workload, pool: str, nodes: Sequence[Node], used: Mapping[str, Mapping[str, int]]) -> list[Gap]:
    found = []
    for resource in RESOURCES:
        needed = sum(getattr(group.demand, resource) * group.min_count for group in workload.groups)
        asking = [group.demand for group in workload.groups if getattr(group.demand, resource)]
        free = sum(max((_free(node, resource, each, used) for each in asking), default=0) for node in nodes)
        if needed > free:
            found.append(Gap(pool=pool, resource=resource, needed=needed, available=free))
    return found


def _on_one_node(
    workload: Workload, pool: str, nodes: Sequence[Node], used: Mapping[str, Mapping[str, int]]
) -> list[Gap]:
    found = {}
    for resource in RESOURCES:
        for group in workload.groups:
            needed: int = getattr(group.demand, resource)
            most = max((_free(node, resource, group.demand, used) for node in nodes), default=0)
            if needed > most:
                found[resource] = Gap(pool=pool, resource=resource, needed=needed, available=most)
    return list(found.values())


def _free(node: Node, resource: str, demand: Demand, used: Mapping[str, Mapping[str, int]]) -> int:
    return max(0, amount(node, resource, demand) - used.get(node.name, {}).get(resource, 0))
