"""What a workload still needs: places for a whole gang, or for those of its independent slices that are not there."""

from dataclasses import dataclass

from services.scheduler.lifecycle import FINAL
from services.scheduler.planner.ask import Want
from services.scheduler.planner.standing import Standing
from services.scheduler.snapshot import Assignment, Group, Kind, Slice, SliceState, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Places wanted beside the slices that stay where they are."""

    wants: tuple[Want, ...]
    kept: tuple[Slice, ...] = ()
    has_dropped: bool = False  # slices run that are not wanted any more
    is_repair: bool = False  # beside a generation that goes on

    @property
    def count(self) -> int:
        """How many slices are missing."""
        return sum(want.most for want in self.wants)


def whole_gang(workload: Workload) -> Need:
    """Everything, from nothing."""
    return Need(
        wants=tuple(Want(group=group, least=group.min_count, most=group.max_count) for group in workload.groups)
    )


def repair(workload: Workload, standing: Standing) -> Need:
    """What independent slices need: the healthy ones that are still wanted stay, the others are replaced or added."""
    wants: list[Want] = []
    kept: list[Slice] = []
    for group in workload.groups:
        members = [each for each in standing.slices if each.group == group.name]
        going_on = [each for each in members if _goes_on(workload, each) and each.index not in standing.banished]
        healthy = [each for each in going_on if _is_unchanged(group, standing.assignment)]
        healthy = sorted(healthy, key=lambda each: each.index)[: group.max_count]
        target = min(max(len(members), group.min_count), group.max_count)
        kept += healthy
        if target > len(healthy):
            wants.append(Want(group=group, least=0, most=target - len(healthy)))
    ids = {each.index for each in kept}
    dropped = [each for each in standing.slices if each.state not in FINAL and each.index not in ids]
    return Need(wants=tuple(wants), kept=tuple(kept), has_dropped=bool(dropped), is_repair=True)


def has_failed(workload: Workload, each: Slice) -> bool:
    """Whether a slice ended as it should not have, by itself."""
    if workload.kind is Kind.SERVING and each.state is SliceState.SUCCEEDED:
        return True
    return each.state is SliceState.FAILED


def _goes_on(workload: Workload, each: Slice) -> bool:
    return each.state not in FINAL or (workload.kind is not Kind.SERVING and each.state is SliceState.SUCCEEDED)


def _is_unchanged(group: Group, assignment: Assignment) -> bool:
    ran = assignment.groups.get(group.name)
    return ran is not None and ran.program == group.program and ran.demand == group.demand
