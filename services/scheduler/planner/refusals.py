"""Who is refused without another look: room only shrinks in a cycle, so what one did not get, none of its kind gets."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

from services.scheduler.planner.admission import Admission
from services.scheduler.planner.cost import ASSUMED_S
from services.scheduler.planner.gates import Refusal
from services.scheduler.snapshot import Reason, Workload

Kind: TypeAlias = tuple[object, ...]


@dataclass(slots=True)
class _Members:
    """Workloads of one kind: they differ in nothing that matters but in how long they run."""

    sample: Workload
    left: int = 0  # not looked at yet
    shortest_s: float = inf  # of those that say it
    longest_s: float = 0.0
    refusal: Refusal | None = None
    until_s: float = 0.0  # it holds for those that run no longer than this
    has_passed_by: bool = False  # also for one that is short enough to pass the head
    is_over: bool = False  # nobody of them who was not looked at gets anything
    evicting: dict[float, Refusal] = field(default_factory=dict)  # by duration: one for whom others are stopped now


class Refusals:
    """The refusals of one cycle.

    How long a workload runs matters twice: a short one may pass the head of its pool, and for a long one more may be
    stopped. So a refusal holds for those that run no longer, and cannot pass the head if the refused one could not.
    """

    def __init__(self, waiting: Iterable[Workload], kind_of: Callable[[Workload], Kind], admission: Admission) -> None:
        self._admission = admission
        self._kinds: dict[str, _Members] = {}
        found: dict[Kind, _Members] = {}
        for each in waiting:
            kind = kind_of(each)
            members = found.get(kind)
            if members is None:
                members = found[kind] = _Members(each)
            self._kinds[each.name] = members
            duration_s = each.expected_duration_s
            members.left += 1
            members.longest_s = max(members.longest_s, duration_s or ASSUMED_S)
            if duration_s:
                members.shortest_s = min(members.shortest_s, duration_s)
        self._open = [*found.values()]  # of these somebody may still get something

    @property
    def are_complete(self) -> bool:
        """Whether whoever was not looked at yet is refused."""
        return not self._open

    def look_at(self, workload: Workload) -> Refusal | None:
        """Let a workload in, or say why not."""
        members = self._kinds[workload.name]
        members.left -= 1
        refusal = self.of(workload)
        if refusal is None:
            refusal = self._attempt(workload, members)
            self._open = [each for each in self._open if not self._is_closed(each)]
        elif not members.left and not members.is_over:
            self._open = [each for each in self._open if each is not members]
            members.is_over = True
        return refusal

    def put_back(self, workload: Workload) -> None:
        """It was let in, and will be looked at again."""
        members = self._kinds[workload.name]
        members.left += 1
        members.is_over = False
        if not any(each is members for each in self._open):
            self._open.append(members)

    def is_over(self, workload: Workload) -> bool:
        """Whether a workload need not be looked at in its turn: it is known already that it gets nothing."""
        if self._kinds[workload.name].is_over:
            return True
        # Before there is a head to pass, what is known may still change.
        return self._admission.has_head(workload) and self.of(workload) is not None

    def of(self, workload: Workload) -> Refusal | None:
        """Why a workload gets nothing, if that is known already."""
        members, duration_s = self._kinds[workload.name], workload.expected_duration_s
        if duration_s in members.evicting:
            return members.evicting[duration_s]
        if members.refusal is None or (duration_s or ASSUMED_S) > members.until_s:
            return None
        if not members.has_passed_by and self._admission.may_pass(workload, duration_s):
            return None
        return members.refusal

    def _attempt(self, workload: Workload, members: _Members) -> Refusal | None:
        admission, duration_s = self._admission, workload.expected_duration_s
        may_pass = admission.may_pass(workload, duration_s)
        refusal = admission.admit(workload)
        if refusal is not None and refusal[0] is Reason.WAITING_FOR_PREEMPTED:
            members.evicting[duration_s] = refusal
        elif refusal is not None:
            members.refusal = refusal
            until_s = (duration_s or ASSUMED_S) if admission.depends_on_duration else inf
            members.until_s = max(members.until_s, until_s)
            members.has_passed_by |= may_pass
        return refusal

    def _is_closed(self, members: _Members) -> bool:
        if members.left:
            if members.refusal is None or members.longest_s > members.until_s:
                return False
            if not members.has_passed_by and self._admission.may_pass(members.sample, members.shortest_s):
                return False
        members.is_over = True
        return True
