"""Yardsticks: preemptive orders on one big machine, without nodes, costs or a planner. They bound what can be reached.

SRTF knows how long every job still runs: nothing without that knowledge comes near it. LAS (Tiresias) knows nothing and
prefers those that have had the least service, in two levels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from services.scheduler.simulator.job import WHOLE, Job
from services.scheduler.simulator.report import quantile

_LAS_LEVEL: Final = 3600.0 * 8  # device-seconds of service, after which a job goes to the second level
_NEARLY: Final = 1e-6

Key = tuple[float, int]


@dataclass(slots=True, kw_only=True)
class Task:
    """A job on the big machine."""

    number: int
    at: float
    size: int  # devices
    work_s: float
    left_s: float


Order = Callable[[Task], Key]


def srtf(task: Task) -> Key:
    """The shortest remaining time first."""
    return task.left_s, task.number


def srsf(task: Task) -> Key:
    """The least remaining service (time x devices) first."""
    return task.left_s * task.size, task.number


def las(task: Task) -> Key:
    """The least attained service first, in two levels; within a level first come, first served."""
    return float(_level(task)), task.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What an order reaches."""

    policy: str
    jobs: int
    mean_jct_s: float
    p50_jct_s: float
    p99_jct_s: float
    makespan_s: float
    utilisation_pct: float
    preemptions: int


def measure(policy: str, order: Order, jobs: Iterable[Job], devices: int) -> Limit:
    """Run jobs on a machine with so many devices; whoever comes first in the order has what it needs, if it fits."""
    tasks = sorted(
        (
            Task(number=0, at=job.at, size=-(-job.device_milli // WHOLE), work_s=job.work_s, left_s=job.work_s)
            for job in jobs
        ),
        key=lambda task: task.at,
    )
    for number, task in enumerate(tasks):
        task.number = number
    machine = _Machine(order, devices)
    jct = sorted(ended_at - task.at for task, ended_at in machine.run(tasks))
    work = sum(task.work_s * task.size for task in tasks)
    makespan_s = machine.now - tasks[0].at if tasks else 0.0
    return Limit(
        policy=policy,
        jobs=len(jct),
        mean_jct_s=sum(jct) / len(jct) if jct else 0.0,
        p50_jct_s=quantile(jct, 0.5),
        p99_jct_s=quantile(jct, 0.99),
        makespan_s=makespan_s,
        utilisation_pct=100 * work / (makespan_s * devices) if makespan_s else 0.0,
        preemptions=machine.preemptions,
    )


class _Machine:
    def __init__(self, order: Order, devices: int) -> None:
        self.now = 0.0
        self.preemptions = 0
        self._order = order
        self._devices = devices
        self._free = devices
        self._running: list[Task] = []
        self._waiting: dict[int, list[tuple[Key, Task]]] = {}  # by size: within a size only the order matters

    def run(self, tasks: list[Task]) -> Iterable[tuple[Task, float]]:
        """Each task with the time at which it ends."""
        position = 0
        while position < len(tasks) or self._running:
            change = min((self._change(task) for task in self._running), default=float("inf"))
            arrival = tasks[position].at if position < len(tasks) else float("inf")
            ended = self._advance(min(self.now + change, arrival))
            yield from ((task, self.now) for task in ended)
            arrived = position
            while position < len(tasks) and tasks[position].at <= self.now:
                if tasks[position].size > self._devices:
                    raise ValueError(f"a job of {tasks[position].size} devices never fits {self._devices}")
                position += 1
            self._admit(tasks[arrived:position])

    def _change(self, task: Task) -> float:
        """Seconds until it ends, or falls to another level."""
        served = (task.work_s - task.left_s) * task.size
        if self._order is las and served < _LAS_LEVEL:
            return min(task.left_s, (_LAS_LEVEL - served) / task.size + _NEARLY)
        return task.left_s

    def _advance(self, now: float) -> list[Task]:
        seconds, self.now = now - self.now, now
        for task in self._running:
            task.left_s -= seconds
        ended = [task for task in self._running if task.left_s <= _NEARLY]
        if ended:
            self._running = [task for task in self._running if task.left_s > _NEARLY]
            self._free += sum(task.size for task in ended)
        return ended

    def _admit(self, arrived: list[Task]) -> None:
        if not any(self._waiting.values()) and sum(task.size for task in arrived) <= self._free:
            self._running += arrived
            self._free -= sum(task.size for task in arrived)
            return
        for task in arrived:
            heappush(self._waiting.setdefault(task.size, []), (self._order(task), task))
        before = sorted(((self._order(task), task) for task in self._running), key=lambda each: each[0])
        tops = sorted((queue[0][0], size) for size, queue in self._waiting.items() if queue)
        self._free, self._running = self._devices, []
        for key, task in before:
            while tops and tops[0][0] < key:
                self._take_waiting(tops)
            if task.size <= self._free:
                self._take(task)
            else:
                heappush(self._waiting.setdefault(task.size, []), (key, task))
                self.preemptions += 1
        while tops and self._free:
            self._take_waiting(tops)

    def _take_waiting(self, tops: list[tuple[Key, int]]) -> None:
        """The first of those that wait, if it fits; else none of its size does."""
        _, size = heappop(tops)
        if size > self._free:
            return
        queue = self._waiting[size]
        self._take(heappop(queue)[1])
        if queue:
            heappush(tops, (queue[0][0], size))

    def _take(self, task: Task) -> None:
        self._running.append(task)
        self._free -= task.size


def _level(task: Task) -> int:
    return int((task.work_s - task.left_s) * task.size >= _LAS_LEVEL)
