"""What there could be more of for a waiting workload: quota, floating resources, nodes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from services.scheduler.explain.changes import AddNodes, Change, SetFloatingResource, SetQuota
from services.scheduler.explain.gaps import RESOURCES, amount, held
from services.scheduler.explain.trial import Trial, smallest
from services.scheduler.planner.quota import queue_of
from services.scheduler.planner.reasons import allowed_pools
from services.scheduler.queue_values import Queue, Quota
from services.scheduler.snapshot import Demand, Node, Workload

MAX_NODES: Final = 10_000  # what the proto allows
MAX_KINDS: Final = 16  # of nodes that are tried


def quota(trial: Trial) -> Change | None:
    """Of the quotas that can limit it, the first whose raise alone admits it: its own queue's, then those above."""
    return next((change for each in quotas(trial) if (change := _raised(trial, *each))), None)


def quotas(trial: Trial) -> Iterator[tuple[Queue, Quota]]:
    """The quotas that can limit it, of its own queue first."""
    workload, snapshot = trial.workload, trial.snapshot
    queue, seen = snapshot.queues.get(queue_of(workload, snapshot)), set[str]()
    pools = {"", *allowed_pools(workload, snapshot)}
    while queue is not None and queue.name not in seen:
        seen.add(queue.name)
        for quota in queue.quotas:
            if quota.pool in pools and _asked(workload, quota.resource):
                yield queue, quota
        queue = snapshot.queues.get(queue.parent)


def _raised(trial: Trial, queue: Queue, quota: Quota) -> Change | None:
    asked = asked_of(trial, quota.resource)

    def to(nominal: int) -> Change:
        return SetQuota(queue=queue.name, quota=replace(quota, nominal=nominal))

    if not trial.admits(to(quota.nominal + asked)):
        return None  # it is not this that it waits for
    nominal = smallest(quota.nominal + 1, quota.nominal + asked, lambda nominal: trial.admits(to(nominal)))
    return None if nominal is None else to(nominal)


def floating(trial: Trial) -> Change | None:
    """A floating resource of which there is just enough more."""
    return next((change for name, _ in trial.workload.floating if (change := _more_floating(trial, name))), None)


def _more_floating(trial: Trial, name: str) -> Change | None:
    now = trial.snapshot.floating.get(name, 0)
    asked = asked_of_floating(trial, name)

    def to(capacity: int) -> Change:
        return SetFloatingResource(name=name, capacity=capacity)

    if now >= asked or not trial.admits(to(asked)):
        return None
    capacity = smallest(now + 1, asked, lambda capacity: trial.admits(to(capacity)))
    return None if capacity is None else to(capacity)


def nodes(trial: Trial) -> Change | None:
    """As few nodes as can be of each kind; of these, what adds the least hardware."""
    best: tuple[tuple[int, int, int, int, str], Change] | None = None
    for node in kinds(trial, trial.workload):
        change = _more_nodes(trial, node)
        if change is not None:
            count = change.count
            cost = (count * len(node.devices), count * node.cpu_milli, count * node.memory_bytes, count, node.name)
            best = min(best or (cost, change), (cost, change), key=lambda each: each[0])
    return best[1] if best else None


def _more_nodes(trial: Trial, node: Node) -> AddNodes | None:
    def plus(count: int) -> AddNodes:
        return AddNodes(like=node.name, count=count)

    # One for each slice of its own will do if any number does, unless those before it take them.
    limit = next((limit for limit in limits(trial) if trial.admits(plus(limit))), 0)
    count = smallest(1, limit, lambda count: trial.admits(plus(count)))
    return None if count is None else plus(count)


def limits(trial: Trial) -> tuple[int, int]:
    """As many nodes as it has slices, and as many as all workloads have."""
    own = sum(group.min_count for group in trial.workload.groups)
    asked = sum(group.max_count for each in trial.snapshot.workloads.values() for group in each.groups)
    return min(MAX_NODES, own), min(MAX_NODES, max(own, asked))


def kinds(trial: Trial, workload: Workload) -> list[Node]:
    """One node, the first by name, of each kind that could hold a slice if it were empty; where most is free, first."""
    snapshot = trial.snapshot
    pools = set(allowed_pools(workload, snapshot))
    used = held(snapshot, snapshot.assignments)
    found: dict[object, list[Node]] = {}
    for name in sorted(snapshot.nodes):
        node = snapshot.nodes[name]
        if node.pool in pools and any(_holds(node, group.demand) for group in workload.groups):
            found.setdefault(_kind(node, workload), []).append(node)

    def free(nodes: list[Node]) -> tuple[int, int]:
        devices = sum(1000 * len(node.devices) - used.get(node.name, {}).get("device_milli", 0) for node in nodes)
        return devices, sum(node.cpu_milli - used.get(node.name, {}).get("cpu_milli", 0) for node in nodes)

    ordered = sorted(found.values(), key=lambda nodes: (*(-each for each in free(nodes)), nodes[0].name))
    return [nodes[0] for nodes in ordered[:MAX_KINDS]]


def _kind(node: Node, workload: Workload) -> tuple[object, ...]:
    """Equal for nodes that are alike to this workload: of their labels, those count that it asks about."""
    asked = [label for label, _ in workload.selector] + [workload.topology.level if workload.topology else ""]
    labels = tuple((label, node.labels.get(label)) for label in asked)
    sizes = (node.cpu_milli, node.memory_bytes, node.storage_bytes, node.network_mbps)
    return node.pool, sizes, tuple(sorted(each.model for each in node.devices)), node.taints, labels


def _holds(node: Node, demand: Demand) -> bool:
    return all(getattr(demand, resource) <= amount(node, resource, demand) for resource in RESOURCES)


def asked_of(trial: Trial, resource: str) -> int:
    """How much of a resource all workloads together could use."""
    return sum(_asked(each, resource) for each in trial.snapshot.workloads.values())


def asked_of_floating(trial: Trial, name: str) -> int:
    """How much of a floating resource all workloads together could use."""
    return sum(dict(each.floating).get(name, 0) for each in trial.snapshot.workloads.values())


def _asked(workload: Workload, resource: str) -> int:
    return sum(getattr(group.demand, resource) * group.max_count for group in workload.groups)
