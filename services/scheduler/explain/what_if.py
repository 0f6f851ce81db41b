"""What would be if something were different: a change applied to a snapshot, and two outcomes compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from services.scheduler.explain.changes import (
    AddNodes,
    Change,
    ChangeWorkload,
    RemoveNode,
    RemoveWorkload,
    SetFloatingResource,
    SetQuota,
    Submit,
)
from services.scheduler.explain.rehearsal import PLACED, Budget, Rehearsal, rehearse
from services.scheduler.lifecycle import FINAL
from services.scheduler.snapshot import Node, Reason, Snapshot, State, Workload

_HOSTNAME: Final = "lepton.dev/hostname"  # of all labels the one that no two nodes share
_WISHES: Final = (
    "kind", "groups", "pools", "priority", "max_restarts", "queue", "expected_duration_s", "is_preemptible", "selector",
    "tolerations", "topology", "is_spread", "floating", "is_held",
)  # fmt: skip


class UnknownError(Exception):
    """A change names something that is not there."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What would become of one workload."""

    workload: str
    state: State
    reason: Reason = Reason.NONE
    message: str = ""
    slices: int = 0
    is_preempted: bool = False


def apply(snapshot: Snapshot, change: Change, now: float) -> Snapshot:
    """The snapshot with one thing different; the original is left as it is. Raises UnknownError."""
    match change:
        case AddNodes():
            return _with_nodes(snapshot, change)
        case RemoveNode(node=name):
            nodes = _without(snapshot.nodes, name)
            gone = {**snapshot.gone, name: now - snapshot.fence_s}
            return replace(snapshot, nodes=nodes, gone=gone)
        case SetQuota():
            return _with_quota(snapshot, change)
        case SetFloatingResource(name=name, capacity=capacity):
            return replace(snapshot, floating={**snapshot.floating, name: capacity})
        case Submit(workload=workload):
            return replace(snapshot, workloads={**snapshot.workloads, workload.name: workload})
        case ChangeWorkload(workload=wished):
            before = snapshot.workloads.get(wished.name)
            if before is None:
                raise UnknownError(wished.name)
            after = replace(before, **{field: getattr(wished, field) for field in _WISHES})
            return replace(snapshot, workloads={**snapshot.workloads, wished.name: after})
        case RemoveWorkload(workload=name):
            return replace(
                snapshot,
                workloads=_without(snapshot.workloads, name),
                assignments={each: value for each, value in snapshot.assignments.items() if each != name},
                reservations={each: value for each, value in snapshot.reservations.items() if each != name},
            )


def outcomes(snapshot: Snapshot, changes: Iterable[Change], now: float, budget: Budget) -> tuple[Outcome, ...]:
    """What becomes of the workloads whose outcome the changes alter, in the order of their names."""
    base = rehearse(snapshot, now, budget)
    changed = snapshot
    for change in changes:
        changed = apply(changed, change, now)
    return compare(base, rehearse(changed, now, budget))


def compare(base: Rehearsal, changed: Rehearsal) -> tuple[Outcome, ...]:
    """The workloads for which two rehearsals end differently. Numbers in messages do not count as a difference."""
    found = []
    for name in sorted({*base.snapshot.workloads, *changed.snapshot.workloads}):
        before, after = _outcome(base, name), _outcome(changed, name)
        is_preempted = name in changed.preempted and name not in base.preempted
        after = replace(after, is_preempted=is_preempted)
        if replace(before, message="") != replace(after, message=""):
            found.append(after)
    return tuple(found)


def _outcome(rehearsal: Rehearsal, name: str) -> Outcome:
    workload = rehearsal.workload(name)
    if workload is None:  # it is in the other only: taken away here, or come to its end
        return Outcome(workload=name, state=State.SUCCEEDED if name in rehearsal.ended else State.CANCELLED)
    return Outcome(
        workload=name,
        state=workload.state,
        reason=workload.reason,
        message=workload.message,
        slices=sum(each.state not in FINAL for each in workload.slices) if workload.state in PLACED else 0,
    )


def _with_nodes(snapshot: Snapshot, change: AddNodes) -> Snapshot:
    like = snapshot.nodes.get(change.like)
    if like is None:
        raise UnknownError(change.like)
    nodes: dict[str, Node] = dict(snapshot.nodes)
    number = 0
    for _ in range(change.count):
        while (name := f"{like.name}-more-{number}") in nodes:
            number += 1
        labels = {label: name if label == _HOSTNAME else value for label, value in like.labels.items()}
        nodes[name] = replace(like, name=name, session=f"session of {name}", is_schedulable=True, labels=labels)
    return replace(snapshot, nodes=nodes)


def _with_quota(snapshot: Snapshot, change: SetQuota) -> Snapshot:
    queue = snapshot.queues.get(change.queue)
    if queue is None:
        raise UnknownError(change.queue)
    place = (change.quota.pool, change.quota.resource)
    others = tuple(each for each in queue.quotas if (each.pool, each.resource) != place)
    return replace(snapshot, queues={**snapshot.queues, queue.name: replace(queue, quotas=(*others, change.quota))})


def _without(values: Mapping[str, Workload] | Mapping[str, Node], name: str) -> dict:  # type: ignore[type-arg]
    if name not in values:
        raise UnknownError(name)
    return {each: value for each, value in values.items() if each != name}
