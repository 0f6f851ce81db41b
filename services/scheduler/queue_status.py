"""What stands in the queues now, derived from the ledger: how much waits, how much is admitted, and what that uses."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from lepton.scheduler.v1 import queue_pb2
from services.scheduler.ledger import Ledger
from services.scheduler.lifecycle import ENDED
from services.scheduler.planner.quota import Quotas
from services.scheduler.snapshot import State

_AT_MOST: Final = 0.05  # of this process's time goes into it


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """One reckoning."""

    quotas: Quotas
    pending: dict[str, int] = field(default_factory=dict)
    admitted: dict[str, int] = field(default_factory=dict)


class QueueStatus:
    """Reckons what a queue holds; in a large fleet not at every call."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._counted: Counted | None = None
        self._revision = self._tree_revision = -1
        self._good_until = 0.0

    def fill(self, queue: queue_pb2.Queue) -> None:
        """Set the fields of a queue that are derived. One that the ledger does not know yet has none."""
        counted = self._count()
        if queue.name not in self._ledger.queues:
            return
        queue.pending_count = counted.pending.get(queue.name, 0)
        queue.admitted_count = counted.admitted.get(queue.name, 0)
        queue.share = counted.quotas.due(queue.name)
        for quota, used, borrowed in counted.quotas.used(queue.name):
            use = queue.use.add(used=used, borrowed=borrowed)
            use.quota.pool, use.quota.resource, use.quota.nominal = quota.pool, quota.resource, quota.nominal
            if quota.borrowing_limit is not None:
                use.quota.borrowing_limit = quota.borrowing_limit
            if quota.lending_limit is not None:
                use.quota.lending_limit = quota.lending_limit

    def users(self, queue: str) -> list[str]:
        """The workloads that have not ended and are in a queue, by name."""
        quotas = self._count().quotas
        waiting = (each.value for each in self._ledger.workloads.values() if each.value.state not in ENDED)
        return sorted(each.name for each in waiting if (each.queue or quotas.queue_of(each.name)) == queue)

    def _count(self) -> Counted:
        started = monotonic()
        is_same_tree = self._ledger.queues_revision == self._tree_revision
        is_recent = self._ledger.revision == self._revision or started < self._good_until
        if self._counted is not None and is_same_tree and is_recent:
            return self._counted
        snapshot = self._ledger.snapshot(0.0)
        counted = Counted(quotas=Quotas.of(snapshot))
        for name, workload in snapshot.workloads.items():
            queue = counted.quotas.queue_of(name)
            is_admitted = workload.state is not State.PENDING or workload.quota_reserved_at is not None
            counts = counted.admitted if is_admitted else counted.pending
            counts[queue] = counts.get(queue, 0) + 1
        self._counted, self._revision = counted, self._ledger.revision
        self._tree_revision = self._ledger.queues_revision
        self._good_until = monotonic() + (monotonic() - started) * (1.0 / _AT_MOST - 1.0)
        return counted
