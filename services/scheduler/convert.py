"""Between the protos on the wire and in etcd, and the frozen values that the planner works on."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeAlias

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.clock import Clock
from lepton.internal.v1 import ledger_pb2, node_session_pb2, tasks_pb2
from lepton.scheduler.v1 import node_pb2, program_pb2, queue_pb2, resources_pb2, workload_pb2
from services.scheduler.snapshot import (
    Assignment,
    Check,
    CheckState,
    Demand,
    Device,
    Effect,
    Failures,
    Group,
    Kind,
    Node,
    Policy,
    Queue,
    Quota,
    Ran,
    Reason,
    Reservation,
    RestartRule,
    Returned,
    Slice,
    SliceFailure,
    SliceState,
    State,
    Stop,
    Taint,
    TaskArray,
    Toleration,
    Topology,
    Workload,
)

_DEFAULTS: Final = Queue(name="")
MAX_TASKS: Final = 4096  # of an array at once, unless it says so
_NONE: Final = Failures()
Moment: TypeAlias = Callable[[Timestamp], float]  # a wall-clock stamp as seconds of the planner's monotonic clock


def moments(clock: Clock) -> Moment:
    """Converts stamps as of now: what lies in the past stays as long ago as it is by the wall clock."""
    offset = clock.monotonic() - clock.now().timestamp()
    return lambda stamp: stamp.ToNanoseconds() / 1e9 + offset


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
        network_mbps=resources.network_mbps,
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
        network_mbps=node.capacity.network_mbps,
        labels=dict(node.labels),
        taints=tuple(
            Taint(key=each.key, value=each.value, effect=Effect(each.effect or Effect.NO_SCHEDULE))
            for each in node.taints
        ),
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
        rules=tuple(_rule_of(each) for each in workload.restart_policy.rules),
        failures=_failures_of(workload.failures) if workload.HasField("failures") else _NONE,
    )


def _rule_of(rule: workload_pb2.RestartPolicy.Rule) -> RestartRule:
    return RestartRule(
        failure_class=rule.failure_class,
        max_restarts=rule.max_restarts if rule.HasField("max_restarts") else None,
        backoff_s=rule.backoff_s if rule.HasField("backoff_s") else None,
        avoids_node=rule.avoid_node,
        stops_repeated=rule.stop_repeated,
    )


def _failures_of(record: workload_pb2.FailureRecord) -> Failures:
    return Failures(
        restarts=tuple(sorted(record.restarts.items())),
        avoided=tuple(record.avoided_nodes),
        failure_class=record.failure_class,
        slice=record.slice,
        node=record.node,
        generation=record.generation,
        message=record.message,
        step=record.step,
        noticed_s=record.time.ToNanoseconds() / 1e9,
        exit_code=record.exit_code,
        streak=record.streak,
        backoff_s=record.backoff_s,
        furthest_step=record.furthest_step,
    )


def failures_to_proto(failures: Failures) -> workload_pb2.FailureRecord:
    """What has failed, as it is stored."""
    return workload_pb2.FailureRecord(
        restarts=dict(failures.restarts),
        avoided_nodes=failures.avoided,
        failure_class=failures.failure_class,
        slice=failures.slice,
        node=failures.node,
        generation=failures.generation,
        message=failures.message,
        step=failures.step,
        time=_stamp(failures.noticed_s),
        exit_code=failures.exit_code,
        streak=failures.streak,
        backoff_s=failures.backoff_s,
        furthest_step=failures.furthest_step,
    )


def _stamp(seconds: float) -> Timestamp | None:
    if not seconds:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def _topology_of(topology: workload_pb2.TopologyRequest) -> Topology:
    return Topology(
        level=topology.level,
        is_required=topology.mode != workload_pb2.TopologyRequest.PREFERRED,
        slice_size=topology.slice_size,
    )


def queue_of(queue: queue_pb2.Queue) -> Queue:
    """A queue as the planner sees it: what is not set has its default."""
    return Queue(
        name=queue.name,
        parent=queue.parent,
        weight=queue.weight or 1.0,
        quotas=tuple(_quota_of(each) for each in queue.quotas),
        policy=Policy(queue.policy or Policy.FAIR_SHARE),
        is_strict=queue.strictness == queue_pb2.Queue.STRICT,
        stop=Stop(queue.stop_policy),
        projects=tuple(queue.projects),
        project_limits=tuple(_quota_of(each) for each in queue.project_limits),
        half_life_s=float(queue.usage_half_life_s or _DEFAULTS.half_life_s),
        min_runtime_s=float(queue.min_runtime_s or _DEFAULTS.min_runtime_s),
        aging_s=float(queue.aging_s or _DEFAULTS.aging_s),
        has_preemption=not queue.disable_preemption,
    )


def _quota_of(quota: queue_pb2.Quota) -> Quota:
    return Quota(
        resource=quota.resource,
        nominal=quota.nominal,
        pool=quota.pool,
        borrowing_limit=quota.borrowing_limit if quota.HasField("borrowing_limit") else None,
        lending_limit=quota.lending_limit if quota.HasField("lending_limit") else None,
    )


def reservation_of(reservation: ledger_pb2.Reservation, moment: Moment) -> Reservation:
    """A reservation as the planner sees it."""
    return Reservation(
        workload=reservation.workload,
        pool=reservation.pool,
        slices=tuple(slice_of(each) for each in reservation.slices),
        demands={name: demand_of(resources) for name, resources in reservation.resources.items()},
        victims=tuple((each.workload, each.generation) for each in reservation.victims),
        expires_at=moment(reservation.create_time) + reservation.lifetime_s,
    )


def reservation_to_proto(
    reservation: Reservation, workload: workload_pb2.Workload, now: Timestamp, lifetime_s: float
) -> ledger_pb2.Reservation:
    """A reservation as it is stored."""
    return ledger_pb2.Reservation(
        workload=reservation.workload,
        workload_uid=workload.uid,
        pool=reservation.pool,
        slices=[slice_to_proto(each) for each in reservation.slices],
        resources={group.name: group.resources for group in workload.groups},
        victims=[
            ledger_pb2.Reservation.Victim(workload=name, generation=generation)
            for name, generation in reservation.victims
        ],
        create_time=now,
        lifetime_s=lifetime_s,
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
        endpoints=tuple(sorted(each.endpoints.items())) if each.endpoints else (),
        outputs=tuple(sorted(each.outputs.items())) if each.outputs else (),
        failure=_slice_failure_of(each.failure) if each.HasField("failure") else None,
        facts=tuple(sorted(each.facts.items())) if each.facts else (),
    )


def _slice_failure_of(failure: workload_pb2.SliceFailure) -> SliceFailure:
    return SliceFailure(
        failure_class=failure.failure_class,
        step=failure.step,
        noticed_s=failure.time.ToNanoseconds() / 1e9,
        suspects=tuple(failure.suspects),
        waited=failure.waited,
    )


def _slice_failure_to_proto(failure: SliceFailure) -> workload_pb2.SliceFailure:
    return workload_pb2.SliceFailure(
        failure_class=failure.failure_class,
        step=failure.step,
        time=_stamp(failure.noticed_s),
        suspects=failure.suspects,
        waited=failure.waited,
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
        failure=_slice_failure_to_proto(each.failure) if each.failure is not None else None,
        facts=dict(each.facts),
    )


@lru_cache(maxsize=4096)
def _ran(resources: bytes, program: bytes) -> Ran:
    """What many generations were given is alike, and a generation's own stays as it is while its slices change."""
    return Ran(
        demand=demand_of(resources_pb2.Resources.FromString(resources)), program=hashlib.sha256(program).digest()
    )


def assignment_of(
    assignment: ledger_pb2.Assignment,
    statuses: Mapping[int, workload_pb2.Slice],
    tasks: tuple[Slice, ...] | None = None,
    revision: int = 0,
) -> Assignment:
    """A generation with what was reported about its slices; those of an array are given."""
    slices = tuple(slice_of(statuses.get(each.index, each)) for each in assignment.slices) if tasks is None else tasks
    return Assignment(
        workload=assignment.workload,
        generation=assignment.generation,
        pool=assignment.pool,
        slices=slices,
        sessions=dict(assignment.sessions),
        groups={
            name: _ran(resources.SerializeToString(), stored(assignment.programs[name]))
            for name, resources in assignment.resources.items()
        },
        kept=frozenset(assignment.kept),
        revoked=assignment.revoke_reason or ("revoked" if assignment.HasField("revoke_time") else ""),
        revision=revision,
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


def start_tasks(assignment: ledger_pb2.Assignment, tasks: tasks_pb2.NodeTasks) -> node_session_pb2.StartTasks:
    """What one node has to run of an array."""
    return node_session_pb2.StartTasks(
        workload=assignment.workload,
        workload_uid=assignment.workload_uid,
        generation=assignment.generation,
        tasks=tasks,
        serial=assignment.serial,
        task_count=assignment.task_count,
        first_index=assignment.first_index,
        program=next(iter(assignment.programs.values())).process,
        owner=assignment.owner,
        trace_context=assignment.trace_context,
    )


def _programs(
    assignment: ledger_pb2.Assignment, slices: Iterable[workload_pb2.Slice]
) -> dict[str, program_pb2.Program]:
    return {each.group: assignment.programs[each.group] for each in slices}
