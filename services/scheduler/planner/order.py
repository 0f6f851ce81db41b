"""In what order waiting workloads are looked at: queue by queue by fair share, and in each queue by its policy.

Between the queues below one parent, first come those that stay within what is their own, then the one whose weighted
dominant share would be the smallest *with* its next workload (progressive filling). Every admission changes the
shares on one path of the tree only, so that a step costs O(depth * log siblings), whatever the number that waits.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import TypeAlias

from services.scheduler.planner.lines import IsOver, Line, level, line_of
from services.scheduler.planner.quota import Quotas, project_of
from services.scheduler.planner.use import least_use
from services.scheduler.snapshot import Demand, Snapshot, Workload

_Rank: TypeAlias = tuple[bool, float, int, int, str]  # exceeds its own, share, -level, submitted, name
_Shape: TypeAlias = tuple[str, str, tuple[tuple[Demand, int], ...]]


def ordered(snapshot: Snapshot, now: float, waiting: Iterable[Workload], quotas: Quotas) -> "Order":
    """The waiting workloads, lazily: what `quotas` is charged with between two of them counts for the next."""
    return Order(snapshot, now, waiting, quotas)


class Order(Iterator[Workload]):
    """An iterator that listens: to what is charged to the quotas, and to what is refused."""

    def __init__(self, snapshot: Snapshot, now: float, waiting: Iterable[Workload], quotas: Quotas) -> None:
        self._queues = snapshot.queues
        self._now = now
        self._quotas = quotas
        self._shapes: dict[_Shape, list[tuple[bool, float]]] = {}
        by_queue: dict[str, list[Workload]] = {}
        self._queue_by_name: dict[str, str] = {}
        for each in waiting:
            name = (each.queue or quotas.queue_of(each.name)) if snapshot.queues else ""
            by_queue.setdefault(name, []).append(each)
        self._root = _Branch("", None)
        self._branches: dict[str, _Branch] = {"": self._root}
        self._of_project: dict[str, set[str]] = {}
        self._dirty: set[str] = set()
        for name, group in by_queue.items():
            queue = snapshot.queues.get(name)
            branch = self._branch(name)
            branch.line = line_of(queue, group, now, quotas, snapshot.usage)
            for each in group if queue is not None else ():
                self._of_project.setdefault(project_of(each.name), set()).add(name)
            self._dirty.add(name)
        quotas.take_touched()

    def __next__(self) -> Workload:
        """The next one. What it is given, if anything, is charged to the quotas before the next is asked for."""
        self._refresh()
        found = self._root.best()
        if found is None:
            raise StopIteration
        queue, workload = found
        line = self._branches[queue].line
        assert line is not None
        line.pop()
        self._dirty.add(queue)
        return workload

    def put_back(self, workload: Workload) -> None:
        """It has had its turn, and wants another one."""
        name = (workload.queue or self._quotas.queue_of(workload.name)) if self._queues else ""
        line = self._branches[name].line
        assert line is not None
        line.put_back(workload)
        self._dirty.add(name)

    def refused(self, workload: Workload) -> None:
        """This one gets nothing now: in a strict queue nothing passes it."""
        name = (workload.queue or self._quotas.queue_of(workload.name)) if self._queues else ""
        queue = self._queues.get(name)
        if queue is not None and queue.is_strict:
            self._branches[name].is_blocked = True
            self._dirty.add(name)

    def pass_over(self, is_over: IsOver) -> None:
        """Whoever this says of gets nothing any more, and need not come up."""
        for branch in self._branches.values():
            if branch.line is not None:
                branch.line.pass_over(is_over)

    def blocked(self) -> Iterator[Workload]:
        """Those that are behind a refused one in a strict queue, in no order."""
        for branch in self._branches.values():
            if branch.is_blocked and branch.line is not None:
                yield from branch.line.rest()

    def _branch(self, name: str) -> "_Branch":
        known = self._branches.get(name)
        if known is None:
            queue = self._queues.get(name)
            parent = queue.parent if queue is not None and queue.parent in self._queues else ""
            self._branches[name] = known = _Branch(name, None)
            known.parent = self._branch(parent)
        return known

    def _refresh(self) -> None:
        touched = self._quotas.take_touched()
        if touched:
            self._shapes.clear()
        dirty, self._dirty = self._dirty, set()
        for queue, project in touched:
            while queue not in self._branches and queue in self._queues:
                queue = self._queues[queue].parent  # nothing waits in it, but it counts for those above it
            if queue in self._branches:
                dirty.add(queue)
            for name in self._of_project.get(project, ()):
                line = self._branches[name].line
                if line is not None and line.rescore(project):
                    dirty.add(name)
        for name in sorted(dirty):
            self._rank(self._branches[name])

    def _rank(self, branch: "_Branch") -> None:
        """Rank the head of a line anew at every junction on its way up; what is used below counts there as well."""
        self._offer_own(branch)
        each = branch
        while each.parent is not None:
            best = each.best()
            each.parent.offer(each.name, best and (self._key(best[0], best[1], self._rise(best[0], each.name)), *best))
            each = each.parent
            self._offer_own(each)

    def _offer_own(self, branch: "_Branch") -> None:
        if branch.line is not None:
            head = None if branch.is_blocked else branch.line.head()
            branch.offer("", None if head is None else (self._key(branch.name, head, 0), branch.name, head))

    def _rise(self, queue: str, above: str) -> int:
        """How many steps it is from a queue up to another."""
        steps = 0
        branch = self._branches[queue]
        while branch.name != above:
            assert branch.parent is not None
            branch, steps = branch.parent, steps + 1
        return steps

    def _key(self, queue: str, workload: Workload, rise: int) -> _Rank:
        exceeds, share = False, 0.0
        if queue in self._queues:
            shape = _shape(queue, workload)
            path = self._shapes.get(shape)
            if path is None:
                path = self._shapes[shape] = self._quotas.path(queue, least_use(workload))
            exceeds, share = path[rise]
        step = level(workload, self._queues.get(queue), self._now)
        return (exceeds, share, -step, workload.submitted, workload.name)


class _Branch:
    """A junction of the tree: the line of the queue itself, and the branches below, the best of them on top."""

    def __init__(self, name: str, parent: "_Branch | None") -> None:
        self.name = name
        self.parent = parent
        self.line: Line | None = None
        self.is_blocked = False
        self._heap: list[tuple[_Rank, int, str, str, Workload]] = []
        self._serials: dict[str, int] = {}

    def offer(self, source: str, candidate: tuple[_Rank, str, Workload] | None) -> None:
        """The best that a source has now, in place of what it offered before."""
        serial = self._serials[source] = self._serials.get(source, 0) + 1
        if candidate is not None:
            rank, queue, workload = candidate
            heappush(self._heap, (rank, serial, source, queue, workload))

    def best(self) -> tuple[str, Workload] | None:
        """The queue and the workload that come next."""
        while self._heap:
            _, serial, source, queue, workload = self._heap[0]
            if self._serials[source] == serial:
                return queue, workload
            heappop(self._heap)
        return None


def _shape(queue: str, workload: Workload) -> _Shape:
    pool = workload.pools[0] if workload.pools else ""
    return queue, pool, tuple((group.demand, group.min_count) for group in workload.groups)
