"""What happens in the simulated world, and the queue of what is still to happen."""

import heapq
from dataclasses import dataclass
from enum import IntEnum
from itertools import count

from services.scheduler.simulator.job import Job
from services.scheduler.snapshot import Node


class What(IntEnum):
    """Kinds of events, in the order in which those of one moment happen: what frees comes before what takes."""

    END = 1
    STOPPED = 2
    UP = 3
    CHECKPOINT = 4
    LEAVE = 5
    JOIN = 6
    SUBMIT = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happens; what is not used by its kind stays empty."""

    at: float
    what: What
    workload: str = ""
    generation: int = 0
    epoch: int = 0  # of the job's progress: an end that has been overtaken is told by it
    job: Job | None = None
    node: Node | None = None


class Agenda:
    """Events to come, in a total order: by time, kind, and the order in which they were put here."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, Event]] = []
        self._ids = count()

    def add(self, event: Event) -> None:
        """Let this happen."""
        heapq.heappush(self._heap, (event.at, int(event.what), next(self._ids), event))

    @property
    def next_at(self) -> float | None:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else None

    def pop(self) -> Event:
        """The next thing that happens."""
        return heapq.heappop(self._heap)[3]

    def __len__(self) -> int:
        return len(self._heap)
