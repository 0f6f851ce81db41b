"""What a workload that no service made counts for against its creator's limits."""

from chassis.clock import Clock
from chassis.holdings import Holding, Holdings, Policy
from chassis.kv import KV
from lepton.scheduler.v1.workload_pb2 import Workload
from services.scheduler import keys
from services.scheduler.convert.workloads import MAX_TASKS
from services.scheduler.lifecycle import ENDED
from services.scheduler.snapshot import State


def devices_of(workload: Workload) -> int:
    """Thousandths of devices that a workload asks for when it is as large as it may grow."""
    if workload.HasField("array"):
        (group,) = workload.groups[:1]
        return min(group.max_count or MAX_TASKS, workload.array.task_count) * group.resources.device_milli
    return sum(max(group.min_count, group.max_count) * group.resources.device_milli for group in workload.groups)


def holding_of(stored: bytes) -> Holding | None:
    """What a stored workload holds; None once it has ended."""
    workload = Workload.FromString(stored)
    if not workload.creator or State(workload.state) in ENDED:
        return None
    return Holding(holder=workload.creator, device_milli=devices_of(workload))


def counted_workloads(kv: KV, policy: Policy, clock: Clock) -> Holdings:
    """The workloads that principals hold."""
    return Holdings(
        kv, policy, clock, prefix=keys.WORKLOADS, guards=f"{keys.ROOT}holders/", kind="workloads", read=holding_of
    )
