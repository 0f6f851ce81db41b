"""What has failed and what a failure may cost: between the protos and the planner's values."""

from lepton.scheduler.v1 import workload_pb2
from services.scheduler.convert.moments import stamp_of
from services.scheduler.failure_values import Failures, RestartRule, SliceFailure


def rule_of(rule: workload_pb2.RestartPolicy.Rule) -> RestartRule:
    """A rule of restarting."""
    return RestartRule(
        failure_class=rule.failure_class,
        max_restarts=rule.max_restarts if rule.HasField("max_restarts") else None,
        backoff_s=rule.backoff_s if rule.HasField("backoff_s") else None,
        avoids_node=rule.avoid_node,
        stops_repeated=rule.stop_repeated,
    )


def failures_of(record: workload_pb2.FailureRecord) -> Failures:
    """What has failed, as it was stored."""
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
        time=stamp_of(failures.noticed_s),
        exit_code=failures.exit_code,
        streak=failures.streak,
        backoff_s=failures.backoff_s,
        furthest_step=failures.furthest_step,
    )


def slice_failure_of(failure: workload_pb2.SliceFailure) -> SliceFailure:
    """How a slice failed."""
    return SliceFailure(
        failure_class=failure.failure_class,
        step=failure.step,
        noticed_s=failure.time.ToNanoseconds() / 1e9,
        suspects=tuple(failure.suspects),
        waited=failure.waited,
    )


def slice_failure_to_proto(failure: SliceFailure) -> workload_pb2.SliceFailure:
    """How a slice failed, on the wire."""
    return workload_pb2.SliceFailure(
        failure_class=failure.failure_class,
        step=failure.step,
        time=stamp_of(failure.noticed_s),
        suspects=failure.suspects,
        waited=failure.waited,
    )
