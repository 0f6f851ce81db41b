"""Workloads as the planner sees them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from lepton.scheduler.v1 import workload_pb2
from services.scheduler.convert.documents import digest_of
from services.scheduler.convert.failures import failures_of, rule_of
from services.scheduler.convert.moments import Moment
from services.scheduler.convert.nodes import demand_of
from services.scheduler.convert.slices import slice_of
from services.scheduler.failure_values import NO_FAILURES
from services.scheduler.snapshot import (
    Check,
    CheckState,
    Group,
    Kind,
    Reason,
    Returned,
    State,
    TaskArray,
    Toleration,
    Topology,
    Workload,
)

MAX_TASKS: Final = 4096  # of an array at once, unless it says so


def group_of(group: workload_pb2.SliceGroup) -> Group:
    """A group; without a maximum it has exactly its minimum."""
    return Group(
        name=group.name,
        min_count=group.min_count,
        max_count=max(group.max_count, group.min_count),
        demand=demand_of(group.resources),
        program=digest_of(group.program),
    )


@lru_cache(maxsize=4096)
def _groups_of(groups: tuple[bytes, ...]) -> tuple[Group, ...]:
    """The groups of many workloads are alike, and a workload's own stay as they are while it changes."""
    return tuple(group_of(workload_pb2.SliceGroup.FromString(each)) for each in groups)


def _groups(workload: workload_pb2.Workload) -> tuple[Group, ...]:
    groups = _groups_of(tuple(group.SerializeToString() for group in workload.groups))
    if workload.HasField("array") and not workload.groups[0].max_count:
        return (replace(groups[0], max_count=min(workload.array.task_count, MAX_TASKS)),)
    return groups


def array_of(array: workload_pb2.TaskArray, not_before: Mapping[int, float]) -> TaskArray:
    """How the tasks of an array stand; `not_before`: the end of the backoff of those that have failed, by position."""
    pairs = zip(array.returned[::2], array.returned[1::2], strict=True)
    return TaskArray(
        count=array.task_count,
        placed=array.placed,
        returned=tuple(Returned(position, failures, not_before.get(position, 0.0)) for position, failures in pairs),
        succeeded=array.succeeded,
        failed=array.failed,
    )


def workload_of(
    workload: workload_pb2.Workload,
    not_before: float = 0.0,
    moment: Moment | None = None,
    waiting_since: float = 0.0,
    array: TaskArray | None = None,
) -> Workload:
    """A workload as the planner sees it; without `moment` it is shown without its times."""

    def at(field: str) -> float | None:
        return moment(getattr(workload, field)) if moment is not None and workload.HasField(field) else None  # type: ignore[arg-type]

    return Workload(
        name=workload.name,
        kind=Kind(workload.kind or Kind.BATCH),
        groups=_groups(workload),
        pools=tuple(workload.pools),
        priority=workload.priority,
        submitted=workload.create_time.ToNanoseconds(),
        max_restarts=workload.max_restarts,
        state=State(workload.state),
        reason=Reason(workload.pending_reason),
        message=workload.message,
        generation=workload.generation,
        restarts=workload.restarts,
        slices=tuple([slice_of(each) for each in workload.slices]),
        not_before=not_before,
        queue=workload.queue,
        expected_duration_s=float(workload.expected_duration_s),
        is_preemptible=not workload.disable_preemption,
        selector=tuple(sorted(workload.node_selector.items())) if workload.node_selector else (),
        tolerations=tuple([Toleration(key=each.key, value=each.value) for each in workload.tolerations]),
        topology=_topology_of(workload.topology) if workload.HasField("topology") else None,
        is_spread=workload.spread == workload_pb2.Workload.SPREAD,
        floating=tuple(sorted(workload.floating_resources.items())) if workload.floating_resources else (),
        is_held=workload.hold,
        checks=tuple(
            [
                Check(name=each.name, state=CheckState(each.state), message=each.message)
                for each in workload.admission_checks
            ]
        ),
        preemptions=workload.preemptions,
        quota_reserved_at=at("quota_reserve_time"),
        assigned_at=at("assign_time"),
        checkpoint_at=at("checkpoint_time"),
        waiting_since=waiting_since,
        throughput=tuple(sorted(workload.throughput.items())) if workload.throughput else (),
        granted=tuple(sorted(workload.granted.items())) if workload.granted else (),
        array=array if array is not None or not workload.HasField("array") else array_of(workload.array, {}),
        rules=tuple(rule_of(each) for each in workload.restart_policy.rules),
        failures=failures_of(workload.failures) if workload.HasField("failures") else NO_FAILURES,
    )


def _topology_of(topology: workload_pb2.TopologyRequest) -> Topology:
    return Topology(
        level=topology.level,
        is_required=topology.mode != workload_pb2.TopologyRequest.PREFERRED,
        slice_size=topology.slice_size,
    )
