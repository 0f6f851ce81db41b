"""Where the generations of a workload stand: the states of their slices now, and which run nowhere any more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.scheduler.lifecycle import FINAL
from services.scheduler.planner.fit import is_tolerated
from services.scheduler.snapshot import (
    Assignment,
    Effect,
    Kind,
    Node,
    Slice,
    SliceState,
    Snapshot,
    State,
    Taint,
    Toleration,
    Workload,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One generation now."""

    assignment: Assignment
    slices: tuple[Slice, ...]  # those of lost nodes are LOST
    running: int  # how many may still be running somewhere
    missing: tuple[str, ...]  # nodes whose fence has passed
    wake_at: float | None  # when the fence of the next one passes
    banished: frozenset[int] = frozenset()  # indices of slices that run where a taint lets them run no longer

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it runs any more."""
        return not self.running


def goes_on(workload: Workload, generations: Sequence[Assignment], nodes: Mapping[str, Node]) -> bool:
    """Whether a gang simply runs, and the workload says so: then nothing is to be decided about it."""
    if len(generations) != 1 or workload.kind is not Kind.TRAINING or workload.state is not State.RUNNING:
        return False
    (assignment,) = generations
    if assignment.revoked or workload.message or workload.reason or workload.slices != assignment.slices:
        return False
    for each in assignment.slices:
        node = nodes.get(each.node)
        if each.state is not SliceState.RUNNING or node is None or node.taints:
            return False
        if node.session != assignment.sessions.get(each.node):
            return False
    return True


def stand(generations: Sequence[Assignment], snapshot: Snapshot, now: float) -> tuple[Standing, ...]:
    """Every generation of a workload, oldest first."""
    standings: list[Standing] = []
    handed_over: frozenset[int] = frozenset()
    for assignment in reversed(generations):
        standings.append(_stand(assignment, handed_over, snapshot, now))
        handed_over = assignment.kept
    return tuple(reversed(standings))


def _stand(assignment: Assignment, handed_over: frozenset[int], snapshot: Snapshot, now: float) -> Standing:
    slices: list[Slice] = []
    fences: list[float] = []
    missing: set[str] = set()
    banished: set[int] = set()
    running = 0
    for each in assignment.slices:
        is_here = each.state not in FINAL and each.index not in handed_over
        if is_here:
            node = snapshot.nodes.get(each.node)
            if node is None:
                passes_at = snapshot.gone.get(each.node, now) + snapshot.fence_s
                if now < passes_at:
                    fences.append(passes_at)
                else:
                    missing.add(each.node)
                    each, is_here = _lost(each, "its node is lost"), False
            elif node.session != assignment.sessions.get(each.node):
                each, is_here = _lost(each, "its node has started afresh"), False
            elif node.taints and _banishes(node.taints, assignment.workload, snapshot):
                banished.add(each.index)
        running += is_here
        slices.append(each)
    return Standing(
        assignment=assignment,
        slices=tuple(slices),
        running=running,
        missing=tuple(sorted(missing)),
        wake_at=min(fences, default=None),
        banished=frozenset(banished),
    )


def _banishes(taints: Sequence[Taint], name: str, snapshot: Snapshot) -> bool:
    """Whether what a workload runs on a node with these taints has to leave it."""
    workload = snapshot.workloads.get(name)
    tolerations: Sequence[Toleration] = workload.tolerations if workload is not None else ()
    return any(taint.effect is Effect.NO_EXECUTE and not is_tolerated(taint, tolerations) for taint in taints)


def _lost(each: Slice, why: str) -> Slice:
    return replace(each, state=SliceState.LOST, message=why)
