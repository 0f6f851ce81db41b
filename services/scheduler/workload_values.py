"""What a workload's document does not tell, but seeing it change does: since when it waits, and until when."""

from lepton.scheduler.v1 import workload_pb2
from services.scheduler.convert.moments import Moment
from services.scheduler.convert.workloads import array_of, workload_of
from services.scheduler.lifecycle import CHECK_RETRY_S, backoff_s
from services.scheduler.records import WorkloadRecord
from services.scheduler.snapshot import (
    CheckState,
    Reason,
    State,
    TaskArray,
    Workload,
)


def value_of(before: WorkloadRecord | None, now: workload_pb2.Workload, moment: Moment, now_s: float) -> Workload:
    """A workload's new value, from its document and what was known of it before; `now_s`: monotonic."""
    return workload_of(
        now,
        _not_before(before, now, now_s),
        moment,
        _waiting_since(before, now, moment, now_s),
        _array(before, now, now_s) if now.HasField("array") else None,
    )


def _not_before(before: WorkloadRecord | None, now: workload_pb2.Workload, now_s: float) -> float:
    """The end of the backoff, on this process's clock: it begins when its cause is first seen here."""
    is_put_off = Reason(now.pending_reason) is Reason.BACKING_OFF and any(
        CheckState(each.state) is CheckState.RETRY for each in now.admission_checks
    )
    if is_put_off and (before is None or Reason(before.proto.pending_reason) is not Reason.BACKING_OFF):
        return now_s + CHECK_RETRY_S
    if before is not None and now.restarts <= before.proto.restarts:
        return before.value.not_before
    if before is None and Reason(now.pending_reason) is not Reason.BACKING_OFF:
        return 0.0
    pause_s = now.failures.backoff_s if now.failures.generation else backoff_s(now.restarts)
    return now_s + pause_s


def _array(before: WorkloadRecord | None, now: workload_pb2.Workload, now_s: float) -> TaskArray:
    """The tasks of an array. A backoff begins when the failure is first seen here."""
    known = before.value.array.returned if before is not None and before.value.array is not None else ()
    failures = {each.position: each for each in known}
    not_before: dict[int, float] = {}
    returned = now.array.returned
    for position, count in zip(returned[::2], returned[1::2], strict=True):
        each = failures.get(position)
        if count:
            is_known = each is not None and each.failures == count
            not_before[position] = each.not_before if is_known and each else now_s + backoff_s(count)
    return array_of(now.array, not_before)


def _waiting_since(before: WorkloadRecord | None, now: workload_pb2.Workload, moment: Moment, now_s: float) -> float:
    """Since when it waits: since it was created, or since it lost its place (about then, where nobody saw it)."""
    if before is not None and (before.value.state is State.PENDING or now.state != workload_pb2.Workload.PENDING):
        return before.value.waiting_since
    if before is not None:
        return now_s
    return moment(now.update_time if now.generation else now.create_time)
