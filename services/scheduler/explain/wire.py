"""Between what is explained, as values, and the protos."""

from datetime import datetime, timedelta
from typing import Final

from chassis.field_behaviour import apply, plan_of
from lepton.errors import InvalidArgument
from lepton.names import FloatingResourceName, NodeName, ProjectName, QueueName, WorkloadName
from lepton.scheduler.v1 import planning_service_pb2 as pb
from lepton.scheduler.v1 import queue_pb2, workload_pb2
from services.scheduler.convert.queues import queue_of
from services.scheduler.convert.workloads import workload_of
from services.scheduler.explain.changes import (
    AddNodes,
    Change,
    ChangeWorkload,
    RemoveNode,
    RemoveWorkload,
    SetFloatingResource,
    SetQuota,
    Submit,
    describe,
)
from services.scheduler.explain.explanation import Explanation
from services.scheduler.explain.gaps import Gap
from services.scheduler.explain.what_if import Outcome
from services.scheduler.queue_values import Quota
from services.scheduler.snapshot import Demand, Workload
from services.scheduler.wishes import check_wishes

EVERYWHERE: Final = "projects/-"
_NEW: Final = "what-if"  # the id of a submitted workload that has none


def changes_of(request: pb.WhatIfRequest, now_ns: int) -> list[Change]:
    """The changes of a request. InvalidArgument; a workload of another project than the parent's is not there."""
    if request.parent != EVERYWHERE:
        ProjectName.parse(request.parent, "parent")
    return [_change_of(each, request.parent, now_ns + at) for at, each in enumerate(request.changes)]


def _change_of(change: pb.Change, parent: str, now_ns: int) -> Change:
    match change.WhichOneof("kind"):
        case "add_nodes":
            return AddNodes(like=str(NodeName.parse(change.add_nodes.like, "like")), count=change.add_nodes.count)
        case "set_quota":
            queue = str(QueueName.parse(change.set_quota.queue, "queue"))
            return SetQuota(queue=queue, quota=_quota_of(change.set_quota.quota))
        case "remove_workload":
            return RemoveWorkload(workload=_within(parent, change.remove_workload))
        case "change_workload":
            return ChangeWorkload(workload=_wished(change.change_workload, parent, now_ns))
        case "submit":
            return Submit(workload=_wished(change.submit, parent, now_ns))
        case "remove_node":
            return RemoveNode(node=str(NodeName.parse(change.remove_node, "remove_node")))
        case "set_floating_resource":
            wished = change.set_floating_resource
            return SetFloatingResource(name=str(FloatingResourceName.parse(wished.name)), capacity=wished.capacity)
        case _:
            raise InvalidArgument("INVALID_FIELD", fields={"changes": "each must say what is changed"})


def _wished(proto: workload_pb2.Workload, parent: str, now_ns: int) -> Workload:
    """A workload that waits, as its submitter wishes it; what only the scheduler says of it is left out."""
    check_wishes(proto, "changes.workload")
    wished = _wishes(proto)
    wished.state = workload_pb2.Workload.PENDING
    project = "projects/what-if" if parent == EVERYWHERE else parent
    wished.name = _within(parent, wished.name or f"{project}/workloads/{_NEW}")
    wished.create_time.FromNanoseconds(now_ns)
    return workload_of(wished)


def _within(parent: str, workload: str) -> str:
    name = WorkloadName.parse(workload, "workload")
    if parent not in (EVERYWHERE, str(name.parent)):
        raise InvalidArgument("INVALID_FIELD", fields={"changes": f"{name} is not in {parent}"})
    return str(name)


def change_to_proto(change: Change, own: workload_pb2.Workload | None = None) -> pb.Change:
    """A change on the wire; `own` is the document of the workload that it changes."""
    answer = pb.Change(description=describe(change))
    match change:
        case AddNodes(like=like, count=count):
            answer.add_nodes.like, answer.add_nodes.count = like, count
        case SetQuota(queue=queue, quota=quota):
            answer.set_quota.CopyFrom(pb.SetQuota(queue=queue, quota=_quota_to_proto(quota)))
        case SetFloatingResource(name=name, capacity=capacity):
            answer.set_floating_resource.name, answer.set_floating_resource.capacity = name, capacity
        case RemoveWorkload(workload=name):
            answer.remove_workload = name
        case RemoveNode(node=node):
            answer.remove_node = node
        case ChangeWorkload(workload=workload) | Submit(workload=workload):
            wished = _wishes(own or workload_pb2.Workload(name=workload.name))
            _write(workload, wished)
            answer.change_workload.CopyFrom(wished)
    return answer


def response(
    explanation: Explanation, own: workload_pb2.Workload, now: datetime, revision: int
) -> pb.ExplainWorkloadResponse:
    """An explanation on the wire."""
    answer = pb.ExplainWorkloadResponse(
        reason=workload_pb2.Workload.PendingReason.ValueType(explanation.reason),
        message=explanation.message,
        gaps=[_gap_to_proto(each) for each in explanation.gaps],
        blockers=explanation.blockers,
        position=explanation.position,
        revision=revision,
    )
    answer.changes.extend(change_to_proto(each, own) for each in explanation.changes)
    if explanation.start is not None:
        answer.start.p50.FromDatetime(now + timedelta(seconds=explanation.start.p50_s))
        answer.start.p90.FromDatetime(now + timedelta(seconds=explanation.start.p90_s))
        answer.start.basis = explanation.start.basis
    return answer


def _gap_to_proto(gap: Gap) -> pb.Gap:
    return pb.Gap(pool=gap.pool, resource=gap.resource, needed=gap.needed, available=gap.available, queue=gap.queue)


def outcome_to_proto(outcome: Outcome) -> pb.WhatIfResponse.Outcome:
    """An outcome on the wire."""
    return pb.WhatIfResponse.Outcome(
        workload=outcome.workload,
        state=workload_pb2.Workload.State.ValueType(outcome.state),
        reason=workload_pb2.Workload.PendingReason.ValueType(outcome.reason),
        message=outcome.message,
        slices=outcome.slices,
        preempted=outcome.is_preempted,
    )


def _wishes(proto: workload_pb2.Workload) -> workload_pb2.Workload:
    """A copy without what only the scheduler says."""
    wished = workload_pb2.Workload()
    wished.CopyFrom(proto)
    apply(plan_of(workload_pb2.Workload.DESCRIPTOR), wished, clears=True)
    return wished


def _write(workload: Workload, wished: workload_pb2.Workload) -> None:
    """Carry over what the smallest change may have changed."""
    groups = {each.name: each for each in wished.groups}
    for group in workload.groups:
        proto = groups.get(group.name) or wished.groups.add(name=group.name)
        proto.min_count, proto.max_count = group.min_count, group.max_count
        _write_demand(group.demand, proto)
    wished.pools[:] = workload.pools
    wished.hold = workload.is_held
    wished.node_selector.clear()
    wished.node_selector.update(dict(workload.selector))
    del wished.tolerations[:]
    wished.tolerations.extend(workload_pb2.Toleration(key=each.key, value=each.value) for each in workload.tolerations)
    wished.ClearField("topology")
    if workload.topology is not None:
        mode = workload_pb2.TopologyRequest
        wished.topology.level, wished.topology.slice_size = workload.topology.level, workload.topology.slice_size
        wished.topology.mode = mode.REQUIRED if workload.topology.is_required else mode.PREFERRED


def _write_demand(demand: Demand, group: workload_pb2.SliceGroup) -> None:
    resources = group.resources
    resources.cpu_milli, resources.memory_bytes = demand.cpu_milli, demand.memory_bytes
    resources.storage_bytes, resources.device_milli = demand.storage_bytes, demand.device_milli
    resources.network_mbps = demand.network_mbps
    resources.device_models[:] = sorted(demand.device_models)


def _quota_of(quota: queue_pb2.Quota) -> Quota:
    return queue_of(queue_pb2.Queue(quotas=[quota])).quotas[0]


def _quota_to_proto(quota: Quota) -> queue_pb2.Quota:
    return queue_pb2.Quota(
        pool=quota.pool,
        resource=quota.resource,
        nominal=quota.nominal,
        borrowing_limit=quota.borrowing_limit,
        lending_limit=quota.lending_limit,
    )
