"""The place of a workload in the order of its queue, and who comes after it."""

from dataclasses import dataclass, replace

from services.scheduler.planner.order import ordered
from services.scheduler.planner.quota import Quotas, queue_of
from services.scheduler.snapshot import Snapshot, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Where a workload stands."""

    position: int  # among those that wait in its queue, from 1; 0 when it does not wait
    behind: frozenset[str] = frozenset()  # whoever is looked at after it, of all queues


def line_of(snapshot: Snapshot, name: str, now: float) -> Line:
    """The line, as it is before anybody else is admitted."""
    quotas = Quotas.of(snapshot)
    waiting = [each for each in snapshot.workloads.values() if each.state is State.PENDING]
    queue = queue_of(snapshot.workloads[name], snapshot)
    place, before = 0, set[str]()
    for each in ordered(snapshot, now, waiting, quotas):
        place += queue_of(each, snapshot) == queue
        before.add(each.name)
        if each.name == name:
            return Line(position=place, behind=frozenset(each.name for each in waiting) - before)
    return Line(position=0)


def without_those_behind(snapshot: Snapshot, line: Line) -> Snapshot:
    """The same without those behind it that hold nothing: far less to plan, and seldom with another outcome for it."""
    held = snapshot.assignments.keys() | snapshot.reservations.keys()
    workloads = {
        name: each
        for name, each in snapshot.workloads.items()
        if name not in line.behind or name in held or each.quota_reserved_at is not None
    }
    return replace(snapshot, workloads=workloads)
