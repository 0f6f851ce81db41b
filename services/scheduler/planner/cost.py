"""What it costs to stop slices: work since the last checkpoint, the time to come up again, calls that go unanswered."""

from collections.abc import Iterable
from typing import Final

from services.scheduler.snapshot import Assignment, Demand, Kind, Slice, Workload

RESTART_S: Final = 30.0  # from the notice to the first new step
SERVING_S: Final = 300.0  # a replica that goes is counted as so many seconds of its resources
ASSUMED_S: Final = 3600.0  # how long a workload runs that does not say
_CORES_PER_DEVICE: Final = 16.0  # only where no device is asked for


def size_of(demand: Demand) -> float:
    """One slice in devices; one without devices in the cores that usually come with one."""
    if demand.device_milli:
        return demand.device_milli / 1000
    return max(demand.cpu_milli / 1000, 0.1) / _CORES_PER_DEVICE


def sum_of(assignment: Assignment, slices: Iterable[Slice]) -> float:
    """The size of slices of one generation."""
    return sum(size_of(assignment.groups[each.group].demand) for each in slices)


def asked_by(workload: Workload) -> float:
    """The size of the least that a workload is any use with."""
    return sum(size_of(group.demand) * group.min_count for group in workload.groups)


def unsaved_s(workload: Workload, now: float) -> float:
    """For how long each slice has worked without anything of it being safe."""
    since = max(
        (moment for moment in (workload.assigned_at, workload.checkpoint_at) if moment is not None), default=None
    )
    return max(0.0, now - since) if since is not None else 0.0


def of_stopping(workload: Workload, size: float, now: float) -> float:
    """Device-seconds lost when slices of this size are stopped, and their work is done again."""
    if workload.kind is Kind.SERVING:
        return size * (SERVING_S + RESTART_S)
    return size * (unsaved_s(workload, now) + RESTART_S)
