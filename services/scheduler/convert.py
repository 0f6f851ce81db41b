"""Between the protos on the wire and in etcd, and the frozen values that the planner works on."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.internal.v1 import ledger_pb2, node_session_pb2
from lepton.scheduler.v1 import node_pb2, program_pb2, resources_pb2, workload_pb2
from services.scheduler.snapshot import (
    Assignment,
    Demand,
    Device,
    Group,
    Kind,
    Node,
    Ran,
    Reason,
    Slice,
    SliceState,
    State,
    Workload,
)


def stored(message: Message) -> bytes:
    """A document as it is stored: equal bytes for equal messages."""
    return message.SerializeToString(deterministic=True)


def timestamp(moment: datetime) -> Timestamp:
    """A moment on the wire."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def digest_of(message: Message) -> bytes:
    """Equal for equal messages."""
    return hashlib.sha256(stored(message)).digest()


def demand_of(resources: resources_pb2.Resources) -> Demand:
    """What a slice takes."""
    return Demand(
        cpu_milli=resources.cpu_milli,
        memory_bytes=resources.memory_bytes,
        storage_bytes=resources.storage_bytes,
        device_milli=resources.device_milli,
        device_models=frozenset(resources.device_models),
    )


def node_of(node: node_pb2.Node) -> Node:
    """A node as the planner sees it."""
    return Node(
        name=node.name,
        pool=node.name.rpartition("/nodes/")[0],
        session=node.session_id,
        cpu_milli=node.capacity.cpu_milli,
        memory_bytes=node.capacity.memory_bytes,
        storage_bytes=node.capacity.storage_bytes,
        devices=tuple(Device(index=each.index, model=each.model) for each in node.devices),
        is_schedulable=node.state == node_pb2.Node.READY,
    )


def group_of(group: workload_pb2.SliceGroup) -> Group:
    """A group; without a maximum it has exactly its minimum."""
    return Group(
        name=group.name,
        min_count=group.min_count,
        max_count=max(group.max_count, group.min_count),
        demand=demand_of(group.resources),
        program=digest_of(group.program),
    )


def workload_of(workload: workload_pb2.Workload, not_before: float = 0.0) -> Workload:
    """A workload as the planner sees it."""
    return Workload(
        name=workload.name,
        kind=Kind(workload.kind or Kind.BATCH),
        groups=tuple(group_of(group) for group in workload.groups),
        pools=tuple(workload.pools),
        priority=workload.priority,
        submitted=workload.create_time.ToNanoseconds(),
        max_restarts=workload.max_restarts,
        state=State(workload.state),
        reason=Reason(workload.pending_reason),
        message=workload.message,
        generation=workload.generation,
        restarts=workload.restarts,
        slices=tuple(slice_of(each) for each in workload.slices),
        not_before=not_before,
    )


def slice_of(each: workload_pb2.Slice) -> Slice:
    """A slice."""
    return Slice(
        index=each.index,
        group=each.group,
        node=each.node,
        devices=tuple(each.devices),
        state=SliceState(each.state or SliceState.ASSIGNED),
        message=each.message,
        exit_code=each.exit_code,
        endpoints=tuple(sorted(each.endpoints.items())),
        outputs=tuple(sorted(each.outputs.items())),
    )


def slice_to_proto(each: Slice) -> workload_pb2.Slice:
    """A slice on the wire."""
    return workload_pb2.Slice(
        index=each.index,
        group=each.group,
        node=each.node,
        devices=each.devices,
        state=workload_pb2.Slice.State.ValueType(each.state),
        message=each.message,
        exit_code=each.exit_code,
        endpoints=dict(each.endpoints),
        outputs=dict(each.outputs),
    )


def assignment_of(assignment: ledger_pb2.Assignment, statuses: Mapping[int, workload_pb2.Slice]) -> Assignment:
    """A generation with what was reported about its slices."""
    return Assignment(
        workload=assignment.workload,
        generation=assignment.generation,
        pool=assignment.pool,
        slices=tuple(slice_of(statuses.get(each.index, each)) for each in assignment.slices),
        sessions=dict(assignment.sessions),
        groups={
            name: Ran(demand=demand_of(resources), program=digest_of(assignment.programs[name]))
            for name, resources in assignment.resources.items()
        },
        kept=frozenset(assignment.kept),
        revoked=assignment.revoke_reason or ("revoked" if assignment.HasField("revoke_time") else ""),
    )


def reported(assigned: workload_pb2.Slice, report: workload_pb2.Slice) -> workload_pb2.Slice:
    """What is stored of a report: its state, on the place that was assigned."""
    stored = workload_pb2.Slice()
    stored.CopyFrom(report)
    stored.group, stored.node = assigned.group, assigned.node
    del stored.devices[:]
    stored.devices.extend(assigned.devices)
    return stored


def start_slices(
    assignment: ledger_pb2.Assignment, slices: Iterable[workload_pb2.Slice], node: str
) -> node_session_pb2.StartSlices:
    """What one node has to run of a generation; `slices` are all of it, with their present states."""
    slices = sorted(slices, key=lambda each: each.index)
    mine = [each for each in slices if each.node == node and SliceState(each.state) < SliceState.SUCCEEDED]
    has_torch = any(program.HasField("torch") for program in assignment.programs.values())
    return node_session_pb2.StartSlices(
        workload=assignment.workload,
        workload_uid=assignment.workload_uid,
        generation=assignment.generation,
        gang_size=len(slices),
        slices=mine,
        programs=_programs(assignment, mine),
        hosts_store=has_torch and slices[0].index == 0 and slices[0].node == node,
        store_endpoint=slices[0].endpoints.get("store", ""),
        owner=assignment.owner,
        trace_context=assignment.trace_context,
        gang_nodes=list(dict.fromkeys(each.node for each in slices)),
    )


def _programs(
    assignment: ledger_pb2.Assignment, slices: Iterable[workload_pb2.Slice]
) -> dict[str, program_pb2.Program]:
    return {each.group: assignment.programs[each.group] for each in slices}
