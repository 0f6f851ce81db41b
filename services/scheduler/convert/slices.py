"""Slices: between the protos and the planner's values."""

from lepton.scheduler.v1 import workload_pb2
from services.scheduler.convert.failures import slice_failure_of, slice_failure_to_proto
from services.scheduler.snapshot import Slice, SliceState


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
        endpoints=tuple(sorted(each.endpoints.items())) if each.endpoints else (),
        outputs=tuple(sorted(each.outputs.items())) if each.outputs else (),
        failure=slice_failure_of(each.failure) if each.HasField("failure") else None,
        facts=tuple(sorted(each.facts.items())) if each.facts else (),
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
        failure=slice_failure_to_proto(each.failure) if each.failure is not None else None,
        facts=dict(each.facts),
    )


def reported(assigned: workload_pb2.Slice, report: workload_pb2.Slice) -> workload_pb2.Slice:
    """What is stored of a report: its state, on the place that was assigned."""
    stored = workload_pb2.Slice()
    stored.CopyFrom(report)
    stored.group, stored.node = assigned.group, assigned.node
    del stored.devices[:]
    stored.devices.extend(assigned.devices)
    return stored
