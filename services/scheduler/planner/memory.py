"""What one cycle leaves to the next: what it reckoned up of the fleet and the queues, so that only changes cost.

Plans do not depend on it: with a memory or without, equal snapshots give equal plans.
"""

from collections import Counter
from typing import Final

from services.scheduler.planner.fleet import Fleet
from services.scheduler.planner.holdings import holdings
from services.scheduler.planner.quota import Quotas
from services.scheduler.planner.use import Use, held_by
from services.scheduler.snapshot import Assignment, Demand, Node, Snapshot, Workload

_MANY: Final = 1_000_000  # workloads of which it is kept what they are like


class Memory:
    """The fleet and the use of the cycle before. One planner's own: whoever plans at the same time has another."""

    def __init__(self) -> None:
        self._fleet: Fleet | None = None
        self._nodes: dict[str, Node] = {}
        self._assignments: dict[str, tuple[Assignment, ...]] = {}
        self._workloads: dict[str, Workload] = {}
        self._demands: Counter[Demand] = Counter()
        self._labels: Counter[str] = Counter()
        self._likeness: dict[str, tuple[Workload, int]] = {}
        self._numbers: dict[tuple[object, ...], int] = {}
        self._uses: dict[str, Use] = {}
        self._used_by: dict[str, tuple[Assignment, ...]] = {}

    def fleet(self, snapshot: Snapshot) -> Fleet:
        """What is free in a snapshot, as `Fleet.of` has it. It is the caller's until the next is asked for."""
        before = {key for key, count in self._labels.items() if count}
        self._learn(snapshot)
        labels = {key for key, count in self._labels.items() if count}
        fleet = self._fleet
        if fleet is None or labels != before or self._nodes != snapshot.nodes:
            fleet = Fleet(snapshot.nodes, labels)
            self._nodes = dict(snapshot.nodes)
            self._assignments = {}
        else:
            fleet.undo(0)
        self._fleet = None  # whatever is raised below, nothing half done is used again
        self._apply(fleet, snapshot)
        fleet.settle()
        fleet.expect_only(self._demands)
        self._fleet = fleet
        return fleet

    def likeness(self, workload: Workload) -> int:
        """A number, equal for workloads that ask for the same: of all but who they are and how long they run."""
        known = self._likeness.get(workload.name)
        if known is not None and known[0] is workload:
            return known[1]
        asks = (
            workload.priority,
            workload.pools,
            workload.groups,
            workload.selector,
            workload.tolerations,
            workload.topology,
            workload.is_spread,
            workload.floating,
            workload.is_held,
        )
        number = self._numbers.setdefault(asks, len(self._numbers))
        if len(self._likeness) > _MANY:
            self._likeness.clear()
        self._likeness[workload.name] = workload, number
        return number

    def quotas(self, snapshot: Snapshot) -> Quotas:
        """What the queues use, as `Quotas.of` has it."""
        if not snapshot.queues:
            return Quotas.of(snapshot)
        known, uses, assignments = self._used_by, self._uses, snapshot.assignments
        for name in known.keys() - assignments.keys():
            del known[name], uses[name]
        for name, generations in assignments.items():
            if known.get(name) is not generations:
                known[name], uses[name] = generations, held_by(generations)
        return Quotas.of(snapshot, uses)

    def _learn(self, snapshot: Snapshot) -> None:
        """What the workloads ask for."""
        known, workloads = self._workloads, snapshot.workloads
        for name in known.keys() - workloads.keys():
            self._count(known.pop(name), -1)
        for name, workload in workloads.items():
            before = known.get(name)
            if before is workload:
                continue
            known[name] = workload
            if before is None:
                self._count(workload, 1)
            elif before.groups is not workload.groups or before.selector != workload.selector:
                self._count(before, -1)
                self._count(workload, 1)

    def _count(self, workload: Workload, sign: int) -> None:
        for group in workload.groups:
            self._demands[group.demand] += sign * group.min_count
        for key, _ in workload.selector:
            self._labels[key] += sign

    def _apply(self, fleet: Fleet, snapshot: Snapshot) -> None:
        """Free what is held no more, then hold what is."""
        known, assignments = self._assignments, snapshot.assignments
        changed = [name for name, each in assignments.items() if known.get(name) is not each]
        gone = known.keys() - assignments.keys()
        for name in (*gone, *changed):
            for assignment, held in holdings(known.pop(name, ()), self._nodes):
                fleet.free(held.node, assignment.groups[held.group].demand, held.devices)
        for name in changed:
            known[name] = generations = assignments[name]
            for assignment, held in holdings(generations, self._nodes):
                fleet.hold(held.node, assignment.groups[held.group].demand, held.devices)
