"""Who is in the way of a waiting workload: those who hold what it is short of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.scheduler.explain.changes import RemoveWorkload
from services.scheduler.explain.gaps import RESOURCES, Gap, held
from services.scheduler.explain.rehearsal import OutOfBudgetError
from services.scheduler.explain.trial import Trial
from services.scheduler.planner.quota import project_of, queue_of
from services.scheduler.snapshot import Snapshot, Workload

MAX_NAMED: Final = 20
MAX_TRIED: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class InTheWay:
    """Those that hold what is short, and those that come first; of other projects only how many hold it."""

    own: tuple[str, ...] = ()  # smallest first
    others: int = 0
    waiting: tuple[str, ...] = ()  # of its own project, the last first

    @property
    def removable(self) -> tuple[str, ...]:
        """Those of its own project whose removal may be proposed, smallest first."""
        return (*self.own[:MAX_TRIED], *self.waiting[:MAX_TRIED])


def in_the_way(trial: Trial, found: Sequence[Gap]) -> InTheWay:
    """Who is in the way of a workload that is short of this."""
    snapshot, project = trial.snapshot, project_of(trial.workload.name)
    holding = [name for name in snapshot.assignments if _is_in_the_way(trial, name, found)]
    own = [name for name in holding if project_of(name) == project]
    waiting = [each.name for each in _before(trial.workload, snapshot) if project_of(each.name) == project]
    sizes = {name: size(snapshot, name) for name in own}
    own.sort(key=lambda each: (sizes[each], each))
    return InTheWay(own=tuple(own), others=len(holding) - len(own), waiting=tuple(waiting))


def named(trial: Trial, who: InTheWay) -> tuple[str, ...]:
    """Those of its own project by name: first those whose removal alone admits it, then those that hold the most."""
    alone = set()
    try:
        for name in who.own[:MAX_TRIED]:
            if trial.admits(RemoveWorkload(workload=name)):
                alone.add(name)
    except OutOfBudgetError:
        pass  # the rest is named without having been tried
    sizes = {name: size(trial.snapshot, name) for name in who.own}
    ordered = sorted(who.own, key=lambda each: (each not in alone, *(-part for part in sizes[each]), each))
    return tuple(ordered[:MAX_NAMED])


def size(snapshot: Snapshot, name: str) -> tuple[int, ...]:
    """How much a workload holds: devices, then cores, memory, storage, network."""
    nodes = held(snapshot, (name,)).values()
    return tuple(sum(node[resource] for node in nodes) for resource in RESOURCES)


def _is_in_the_way(trial: Trial, name: str, found: Sequence[Gap]) -> bool:
    snapshot, other = trial.snapshot, trial.snapshot.workloads.get(name)
    if other is None or name == trial.workload.name:
        return False
    floating = dict(other.floating)
    wanted = [each for each in snapshot.assignments[name] if not each.revoked]
    for gap in found:
        if gap.resource in floating and gap.resource not in RESOURCES:
            return True
        if gap.queue and root_of(snapshot, other) != root_of(snapshot, trial.workload):
            continue
        for assignment in wanted:
            if gap.pool in ("", assignment.pool) and any(
                getattr(ran.demand, gap.resource, 0) for ran in assignment.groups.values()
            ):
                return True
    return False


def root_of(snapshot: Snapshot, workload: Workload) -> str:
    """The queue at the top of the tree that a workload's queue is in; empty without queues."""
    name, seen = queue_of(workload, snapshot), set[str]()
    while (queue := snapshot.queues.get(name)) is not None and queue.parent and name not in seen:
        seen.add(name)
        name = queue.parent
    return name


def _before(workload: Workload, snapshot: Snapshot) -> list[Workload]:
    """Those that wait and may be looked at earlier: of higher priority, or of the same; those that are older first.

    A younger one may come first where the shortest does: a queue reckons with what those that wait say of themselves.
    """
    mine = (workload.submitted, workload.name)

    def key(each: Workload) -> tuple[object, ...]:
        is_younger = (each.submitted, each.name) > mine
        return is_younger, each.priority, each.submitted if is_younger else -each.submitted, each.name

    return sorted(
        (
            each
            for each in snapshot.workloads.values()
            if each.name not in snapshot.assignments and each.priority >= workload.priority and each is not workload
        ),
        key=key,
    )
