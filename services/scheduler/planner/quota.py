"""What every queue uses of what it may use: who fits, who borrows, and what exactly is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from services.scheduler.planner.quota_tree import QueueNode, QuotaGap, tree_of
from services.scheduler.planner.use import (
    Cell,
    Use,
    capacity_of,
    dominant,
    held_by,
    least_use,
    reserved_by,
    use_of,
    with_total,
)
from services.scheduler.queue_values import Queue, Quota, Stop
from services.scheduler.snapshot import Snapshot, State, Workload

__all__ = ["Cell", "Fit", "QuotaFit", "QuotaGap", "Quotas", "Use", "least_use", "project_of", "queue_of", "use_of"]

DEFAULT_QUEUE: Final = "queues/default"


class Fit(IntEnum):
    """Whether a queue has quota for something, best first."""

    FIT = 0  # within what is its own
    BORROW = 1  # with what others leave idle
    WAIT = 2  # not now
    NEVER = 3  # not even if nothing else were there


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaFit:
    """The answer to whether something fits."""

    kind: Fit
    gaps: tuple[QuotaGap, ...] = ()
    is_borrowing: bool = False  # it would take more than what is the queue's own


def queue_of(workload: Workload, snapshot: Snapshot) -> str:
    """The queue a workload waits in: the one it names, that of its project, the default one; empty = no limits."""
    if not snapshot.queues:
        return ""
    return workload.queue or queue_of_project(project_of(workload.name), snapshot.queues)


def queue_of_project(project: str, queues: Mapping[str, Queue]) -> str:
    """Where a project's workloads go that name no queue."""
    listing = [name for name in sorted(queues) if project in queues[name].projects]
    return listing[0] if listing else DEFAULT_QUEUE if DEFAULT_QUEUE in queues else ""


def project_of(workload: str) -> str:
    """The project (`projects/{project}`) of a workload's name."""
    return workload.partition("/workloads/")[0]


@dataclass(frozen=True, slots=True)
class _Charge:
    queue: str
    project: str
    use: tuple[tuple[Cell, int], ...]
    released: str = ""  # the workload whose reservation this gives back


class Quotas:
    """The tree with its use; every change can be undone."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._nodes = tree_of(snapshot.queues)
        self._capacity = capacity_of(snapshot) if snapshot.queues else {}
        self._held: dict[str, dict[Cell, int]] = {}  # by project
        self._reserved: dict[str, _Charge] = {}
        self._queue_of: dict[str, str] = {}
        self._log: list[_Charge] = []
        self._touched: set[tuple[str, str]] = set()
        self._lines = {project: each.name for each in _backwards(snapshot.queues) for project in each.projects}
        self._default = DEFAULT_QUEUE if DEFAULT_QUEUE in snapshot.queues else ""

    @classmethod
    def of(cls, snapshot: Snapshot, uses: Mapping[str, Use] | None = None) -> "Quotas":
        """The tree, charged with what every admitted workload holds (`uses`, if known) and with what is reserved."""
        quotas = cls(snapshot)
        if not snapshot.queues:
            return quotas
        held: dict[str, Use] = {}
        sums: dict[tuple[str, str], dict[Cell, int]] = {}  # charged at once: what counts is the sum
        for name, generations in snapshot.assignments.items():
            if use := held_by(generations) if uses is None else uses[name]:
                held[name] = use
                total = sums.setdefault((quotas.queue_of(name), project_of(name)), {})
                for cell, amount in use.items():
                    total[cell] = total.get(cell, 0) + amount
        for (queue, project), total in sums.items():
            quotas._apply(_Charge(queue, project, tuple(total.items())), 1)
        for name, workload in snapshot.workloads.items():
            # What has a generation uses what its slices hold: nothing more once all of them have ended.
            if workload.quota_reserved_at is not None and workload.state is State.PENDING and name not in held:
                quotas._reserve(name, least_use(workload))
        for name, reservation in snapshot.reservations.items():
            if name in snapshot.workloads and name not in quotas._reserved:
                use = reserved_by(reservation)
                for victim in dict.fromkeys(victim for victim, _ in reservation.victims):
                    if quotas.queue_of(victim) == quotas.queue_of(name):  # what is freed here is counted already
                        use = {cell: amount - held.get(victim, {}).get(cell, 0) for cell, amount in use.items()}
                quotas._reserve(name, {cell: amount for cell, amount in use.items() if amount > 0})
        quotas._touched.clear()
        return quotas

    def queue_of(self, workload: str) -> str:
        """The queue of a workload by name, also of one that has ended."""
        if not self._nodes:
            return ""
        found = self._queue_of.get(workload)
        if found is None:
            known = self._snapshot.workloads.get(workload)
            if known is not None and known.queue:
                found = known.queue if self._nodes else ""
            else:
                found = self._lines.get(project_of(workload), self._default)
            self._queue_of[workload] = found
        return found

    def mark(self) -> int:
        """A point to undo to."""
        return len(self._log)

    def undo(self, mark: int) -> None:
        """Take back everything since the mark."""
        while len(self._log) > mark:
            charge = self._log.pop()
            self._apply(charge, -1)
            if charge.released:
                use = tuple((cell, -amount) for cell, amount in charge.use)
                self._reserved[charge.released] = _Charge(charge.queue, charge.project, use)

    def charge(self, queue: str, project: str, use: Use, sign: int = 1) -> None:
        """Add what is used (sign -1: give it back)."""
        if self._nodes:
            self._do(_Charge(queue, project, tuple((cell, sign * amount) for cell, amount in use.items() if amount)))

    def release(self, workload: str) -> None:
        """Give back what is reserved for a workload: to be called before it is asked whether that workload fits."""
        reserved = self._reserved.pop(workload, None)
        if reserved is not None:
            use = tuple((cell, -amount) for cell, amount in reserved.use)
            self._do(_Charge(reserved.queue, reserved.project, use, workload))

    def fit(self, queue: str, project: str, use: Use) -> QuotaFit:
        """Whether a queue has quota for something, and which bounds are in the way."""
        node = self._nodes.get(queue)
        if node is None:
            if not queue or not self._nodes:
                return QuotaFit(kind=Fit.FIT)
            unknown = QuotaGap(queue=queue, pool="", resource="", needed=0, available=0)  # there is no such queue
            return QuotaFit(kind=Fit.NEVER, gaps=(unknown,))
        asked = with_total(use)
        borrows = any(amount > 0 and node.borrows(cell, amount) for cell, amount in asked.items())
        gaps = tuple(node.gaps(project, asked, is_idle=False))
        if not gaps:
            return QuotaFit(kind=Fit.BORROW if borrows else Fit.FIT, is_borrowing=borrows)
        never = tuple(node.gaps(project, asked, is_idle=True))
        return QuotaFit(kind=Fit.NEVER if never else Fit.WAIT, gaps=never or gaps, is_borrowing=borrows)

    def is_borrowing(self, queue: str, extra: Use | None = None) -> bool:
        """Whether a queue uses (with `extra`) more of anything than what is its own."""
        node = self._nodes.get(queue)
        asked = with_total(extra or {})
        return node is not None and any(node.borrows(cell, asked.get(cell, 0)) for cell in node.levels)

    def share(self, queue: str, extra: Use | None = None) -> float:
        """What a queue takes beyond its own, with `extra`: the largest fraction of what its parent can lend, by weight.

        Of a resource that no quota bounds there, all that it takes counts, as a fraction of the fleet's.
        """
        node = self._nodes.get(queue)
        asked = with_total(extra or {})
        return self._share(node, asked, asked) if node is not None else 0.0

    def path(self, queue: str, extra: Use) -> list[tuple[bool, float]]:
        """For a queue and each above it: does it exceed its own, and its share, when `queue` takes `extra`."""
        node = self._nodes.get(queue)
        asked = with_total(extra)
        passed: Use = asked
        found: list[tuple[bool, float]] = []
        for each in node.chain() if node is not None else ():
            found.append((_exceeds(each, passed), self._share(each, passed, asked)))
            passed = each.passed_on(passed)
        return found

    def used(self, queue: str) -> list[tuple[Quota, int, int]]:
        """Each quota of a queue, with what it and those below it use, and what of that is borrowed."""
        node = self._nodes[queue]
        cells = [(quota, (quota.pool, quota.resource)) for quota in node.queue.quotas]
        return [(quota, node.total.get(cell, 0), node.levels[cell].borrowed) for quota, cell in cells]

    def due(self, queue: str) -> float:
        """What a queue uses, as a multiple of what its weight gives it among its siblings: at 1, exactly its due."""
        node = self._nodes[queue]
        weights = sum(each.queue.weight for each in self._nodes.values() if each.parent is node.parent)
        shared = dict(self._capacity)
        for cell, level in node.parent.levels.items() if node.parent is not None else ():
            if level.is_bounding:
                shared[cell] = level.most
        return dominant(node.total, shared) * weights / node.queue.weight

    def project_share(self, project: str) -> float:
        """The dominant share of the fleet that a project holds, in all queues together."""
        return dominant(self._held.get(project, {}), self._capacity)

    def dominant_share(self, use: Use) -> float:
        """The dominant share of the fleet that something takes."""
        return dominant(with_total(use), self._capacity)

    def stop_of(self, queue: str) -> Stop:
        """Whether a queue is open: no more than those above it."""
        node = self._nodes.get(queue)
        return max((each.queue.stop for each in node.chain()), default=Stop.OPEN) if node is not None else Stop.OPEN

    def limits_projects(self, queue: str) -> bool:
        """Whether a queue, or one above it, has limits for each single project."""
        node = self._nodes.get(queue)
        return node is not None and any(each.limits for each in node.chain())

    def take_touched(self) -> set[tuple[str, str]]:
        """The queues, with the projects, whose use has changed since this was last asked."""
        touched, self._touched = self._touched, set()
        return touched

    def _share(self, node: QueueNode, passed: Use, asked: Use) -> float:
        """With what is passed on to it of the quotas, and what is asked in all."""
        beyond: dict[tuple[bool, str], tuple[int, int]] = {}
        unbounded = {cell[1]: amount for cell, amount in node.total.items() if not cell[0]}
        for cell, amount in asked.items():
            if not cell[0]:
                unbounded[cell[1]] = unbounded.get(cell[1], 0) + amount
        for cell, level in node.levels.items():
            if level.is_bounding:
                slot = (not cell[0], cell[1])
                taken, lendable = beyond.get(slot, (0, 0))
                taken += max(0, level.used + passed.get(cell, 0) - level.subtree)
                lendable += node.parent.levels[cell].most if node.parent is not None else level.subtree
                beyond[slot] = (taken, lendable)
                if cell[1] in unbounded:
                    unbounded[cell[1]] -= node.total.get(cell, 0) + asked.get(cell, 0)
        for resource, amount in unbounded.items():
            if (True, resource) not in beyond:
                beyond[True, resource] = (amount, self._capacity.get(("", resource), 0))
        fractions = (amount / total if total > 0 else 1.0 for amount, total in beyond.values() if amount > 0)
        return max(fractions, default=0.0) / node.queue.weight

    def _charge_of(self, workload: str, use: Use) -> _Charge:
        return _Charge(self.queue_of(workload), project_of(workload), tuple(use.items()))

    def _reserve(self, workload: str, use: Use) -> None:
        self._reserved[workload] = charge = self._charge_of(workload, use)
        self._apply(charge, 1)

    def _do(self, charge: _Charge) -> None:
        self._apply(charge, 1)
        self._log.append(charge)

    def _apply(self, charge: _Charge, sign: int) -> None:
        self._touched.add((charge.queue, charge.project))
        use = with_total(dict(charge.use))
        held = self._held.setdefault(charge.project, {})
        for cell, amount in use.items():
            held[cell] = held.get(cell, 0) + sign * amount
        node = self._nodes.get(charge.queue)
        if node is not None:
            node.add(charge.project, use, sign)


def _backwards(queues: Mapping[str, Queue]) -> list[Queue]:
    """Last by name first, so that of two queues that list a project, the first one counts."""
    return [queues[name] for name in sorted(queues, reverse=True)]


def _exceeds(node: QueueNode, extra: Use) -> bool:
    return any(
        level.is_declared and level.used + extra.get(cell, 0) > level.subtree for cell, level in node.levels.items()
    )
