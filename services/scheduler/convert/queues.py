"""Queues as the planner sees them."""

from typing import Final

from lepton.scheduler.v1 import queue_pb2
from services.scheduler.queue_values import Policy, Queue, Quota, Stop

_DEFAULTS: Final = Queue(name="")


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
