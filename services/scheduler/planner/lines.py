"""The lines of waiting workloads, one per queue, each in the order of its queue's policy."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from statistics import median
from typing import Final, Protocol, TypeAlias

from services.scheduler.planner.quota import Quotas, project_of
from services.scheduler.planner.shares import standing
from services.scheduler.planner.use import least_use
from services.scheduler.queue_values import Policy, Queue
from services.scheduler.snapshot import Workload

Key: TypeAlias = tuple[float | int | str, ...]

WAIT_WEIGHT: Final = 0.5  # of WEIGHTED_DYNAMIC: having waited for long, being small, being short
SIZE_WEIGHT: Final = 0.25
DURATION_WEIGHT: Final = 0.25


_Entry: TypeAlias = tuple[float, bool, int, str, Workload]  # duration, is it unknown, submitted, name
IsOver: TypeAlias = Callable[[Workload], bool]


class Line(Protocol):
    """What waits in one queue."""

    def pass_over(self, is_over: IsOver) -> None:
        """Whoever this says of gets nothing any more: they are dropped when they come up."""
        ...

    def head(self) -> Workload | None:
        """The next one."""
        ...

    def pop(self) -> None:
        """Drop the head."""
        ...

    def put_back(self, workload: Workload) -> None:
        """One that was dropped waits again."""
        ...

    def rescore(self, project: str) -> bool:
        """A project's use has changed; whether that may have changed the head."""
        ...

    def rest(self) -> Iterator[Workload]:
        """What is left, in no order."""
        ...


def line_of(
    queue: Queue | None, waiting: Sequence[Workload], now: float, quotas: Quotas, usage: Mapping[str, float]
) -> Line:
    """The line of a queue; without one (a fleet without queues) it is priority, then first in first out."""
    if queue is None:
        return SortedLine(waiting, lambda each: (-each.priority,))
    if queue.policy is Policy.FIFO:
        return SortedLine(waiting, lambda each: (-level(each, queue, now),))
    if queue.policy is Policy.SHORTEST_JOB_FIRST:
        return SortedLine(waiting, _by_duration(queue, waiting, now))
    if queue.policy is Policy.WEIGHTED_DYNAMIC:
        return SortedLine(waiting, _by_weights(queue, waiting, now, quotas))

    def score(project: str) -> float:
        return standing(quotas.project_share(project), usage.get(project, 0.0), queue.half_life_s)

    return FairLine(waiting, lambda each: level(each, queue, now), score)


def level(workload: Workload, queue: Queue | None, now: float) -> int:
    """The priority of a waiting workload, one step more for each `aging_s` that it has waited."""
    if queue is None:
        return workload.priority
    return workload.priority + int(max(0.0, now - workload.waiting_since) // queue.aging_s)


class SortedLine:
    """Ordered by a key that does not change; then by submission and name. Sorted only as far as it is looked at."""

    def __init__(self, waiting: Iterable[Workload], key: Callable[[Workload], Key]) -> None:
        self._key = key
        self._heap = [(key(each), each.submitted, each.name, each) for each in waiting]
        self._is_over: IsOver | None = None
        heapify(self._heap)

    def pass_over(self, is_over: IsOver) -> None:
        """Whoever this says of is dropped when they come up behind another."""
        self._is_over = is_over

    def head(self) -> Workload | None:
        """The next one."""
        return self._heap[0][3] if self._heap else None

    def pop(self) -> None:
        """Drop the head."""
        heappop(self._heap)
        while self._heap and self._is_over is not None and self._is_over(self._heap[0][3]):
            heappop(self._heap)

    def put_back(self, workload: Workload) -> None:
        """One that was dropped waits again."""
        heappush(self._heap, (self._key(workload), workload.submitted, workload.name, workload))

    def rescore(self, project: str) -> bool:
        """Nothing here depends on that."""
        return False

    def rest(self) -> Iterator[Workload]:
        """What is left, in no order."""
        return (each[3] for each in self._heap)


class FairLine:
    """Ordered by level; then by what the project has had, least first; within a project the shortest first.

    What a project gets does not depend on how it orders its own: the shortest first is the order in which they wait
    the least together. Those of which no duration is known count as the median, then by submission and name.
    """

    def __init__(
        self, waiting: Sequence[Workload], level_of: Callable[[Workload], int], score: Callable[[str], float]
    ) -> None:
        self._typical = _typical(waiting)
        levels: dict[int, dict[str, list[_Entry]]] = {}
        for each in waiting:
            projects = levels.setdefault(level_of(each), {})
            projects.setdefault(project_of(each.name), []).append(self._entry(each))
        self._level_of = level_of
        self._score = score
        self._is_over: IsOver | None = None
        self._levels = sorted(levels.items(), key=lambda each: each[0])  # the highest is the last
        self._level: int | None = None  # the highest
        self._projects: dict[str, list[_Entry]] = {}  # of it
        self._heap: list[tuple[float, int, str, int, str]] = []
        self._serials: dict[str, int] = {}  # an entry of the heap with another serial is out of date
        self._next_level()

    def pass_over(self, is_over: IsOver) -> None:
        """Whoever this says of is dropped when they come up behind another."""
        self._is_over = is_over

    def head(self) -> Workload | None:
        """The next one."""
        while self._heap:
            _, _, _, serial, project = self._heap[0]
            if self._serials[project] == serial:
                return self._projects[project][0][-1]
            heappop(self._heap)
        return None

    def pop(self) -> None:
        """Drop the head."""
        project = heappop(self._heap)[4]
        heappop(self._projects[project])
        self._drop_over(project)
        self._push(project)
        while self.head() is None and self._levels:
            self._next_level()

    def put_back(self, workload: Workload) -> None:
        """One that was dropped waits again: it was the head, so nobody left is of a higher level."""
        project, at = project_of(workload.name), self._level_of(workload)
        if at != self._level:
            if self._level is not None:
                self._levels.append((self._level, self._projects))
            self._levels.append((at, {project: [self._entry(workload)]}))
            self._next_level()
            return
        heappush(self._projects.setdefault(project, []), self._entry(workload))
        self._push(project)

    def _entry(self, each: Workload) -> _Entry:
        is_unknown = each.expected_duration_s <= 0
        duration_s = self._typical if is_unknown else each.expected_duration_s
        return duration_s, is_unknown, each.submitted, each.name, each

    def _drop_over(self, project: str) -> None:
        waiting = self._projects[project]
        while waiting and self._is_over is not None and self._is_over(waiting[0][-1]):
            heappop(waiting)

    def rescore(self, project: str) -> bool:
        """A project's use has changed."""
        if not self._projects.get(project):
            return False
        self._push(project)
        return True

    def rest(self) -> Iterator[Workload]:
        """What is left, in no order."""
        for projects in (self._projects, *(projects for _, projects in self._levels)):
            for waiting in projects.values():
                yield from (each[-1] for each in waiting)

    def _next_level(self) -> None:
        if not self._levels:
            return
        self._level, self._projects = self._levels.pop()
        self._heap, self._serials = [], {}
        for project, waiting in self._projects.items():
            heapify(waiting)
            self._drop_over(project)
            self._push(project)

    def _push(self, project: str) -> None:
        serial = self._serials[project] = self._serials.get(project, 0) + 1
        waiting = self._projects[project]
        if waiting:
            _, _, submitted, name, _ = waiting[0]
            heappush(self._heap, (self._score(project), submitted, name, serial, project))


def _by_duration(queue: Queue, waiting: Sequence[Workload], now: float) -> Callable[[Workload], Key]:
    """The shortest first; an unknown duration counts as the median of the known ones, after its equals."""
    typical = _typical(waiting)

    def key(each: Workload) -> Key:
        is_unknown = each.expected_duration_s <= 0
        return (-level(each, queue, now), typical if is_unknown else each.expected_duration_s, is_unknown)

    return key


def _typical(waiting: Sequence[Workload]) -> float:
    """The median of the durations that are known."""
    known = [each.expected_duration_s for each in waiting if each.expected_duration_s > 0]
    return median(known) if known else 0.0


def _by_weights(queue: Queue, waiting: Sequence[Workload], now: float, quotas: Quotas) -> Callable[[Workload], Key]:
    """The largest weighted sum first, of how long it has waited and how small and short it is, each from 0 to 1."""
    sizes = {each.name: quotas.dominant_share(least_use(each)) for each in waiting}
    known = [each.expected_duration_s for each in waiting if each.expected_duration_s > 0]
    typical = median(known) if known else 0.0
    most_size = max(sizes.values(), default=0.0)
    most_duration = max(known, default=0.0)
    most_wait = max((now - each.waiting_since for each in waiting), default=0.0)

    def key(each: Workload) -> Key:
        waited = _fraction(now - each.waiting_since, most_wait)
        size = _fraction(sizes[each.name], most_size)
        duration = _fraction(each.expected_duration_s or typical, most_duration)
        worth = WAIT_WEIGHT * waited + SIZE_WEIGHT * (1.0 - size) + DURATION_WEIGHT * (1.0 - duration)
        return (-level(each, queue, now), -worth)

    return key


def _fraction(amount: float, most: float) -> float:
    return max(0.0, amount) / most if most > 0 else 0.0
