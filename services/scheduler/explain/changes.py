"""What may be different about the fleet or its queue, as values, and each of them in words."""

from dataclasses import dataclass

from services.scheduler.queue_values import Quota
from services.scheduler.snapshot import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class AddNodes:
    """Nodes like an existing one are there too; fresh, so that work may be placed on them."""

    like: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNode:
    """A node is gone, for so long that nothing of it runs any more."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuota:
    """A queue has this quota in place of that for the same pool and resource."""

    queue: str
    quota: Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFloatingResource:
    """There is so much of a floating resource."""

    name: str
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A workload waits beside the others."""

    workload: Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeWorkload:
    """A workload asks for something else; what was said about it so far stays."""

    workload: Workload
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveWorkload:
    """A workload, and whatever runs of it, is not there."""

    workload: str


Change = AddNodes | RemoveNode | SetQuota | SetFloatingResource | Submit | ChangeWorkload | RemoveWorkload


def describe(change: Change) -> str:
    """A change in words."""
    match change:
        case AddNodes(like=like, count=count):
            return f"add {count} {'node' if count == 1 else 'nodes'} like {like}"
        case RemoveNode(node=node):
            return f"remove {node}"
        case SetQuota(queue=queue, quota=quota):
            return (
                f"set the quota of {queue} to {quota.nominal} {quota.resource} of {quota.pool or 'all pools together'}"
            )
        case SetFloatingResource(name=name, capacity=capacity):
            return f"set {name} to {capacity}"
        case Submit(workload=workload):
            return f"submit {workload.name}"
        case ChangeWorkload(workload=workload, description=description):
            return description or f"change {workload.name}"
        case RemoveWorkload(workload=name):
            return f"remove {name}"
