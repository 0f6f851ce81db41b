"""Where the generations of a workload stand: the states of their slices now, and which run nowhere any more."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.scheduler.lifecycle import FINAL
from services.scheduler.snapshot import Assignment, Slice, SliceState, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One generation now."""

    assignment: Assignment
    slices: tuple[Slice, ...]  # those of lost nodes are LOST
    running: int  # how many may still be running somewhere
    missing: tuple[str, ...]  # nodes whose fence has passed
    wake_at: float | None  # when the fence of the next one passes

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it runs any more."""
        return not self.running


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
        running += is_here
        slices.append(each)
    return Standing(
        assignment=assignment,
        slices=tuple(slices),
        running=running,
        missing=tuple(sorted(missing)),
        wake_at=min(fences, default=None),
    )


def _lost(each: Slice, why: str) -> Slice:
    return replace(each, state=SliceState.LOST, message=why)
