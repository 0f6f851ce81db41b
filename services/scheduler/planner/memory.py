"""What one cycle leaves to the next: what it reckoned up of the fleet and the queues, so that only changes cost.

Plans do not depend on it: with a memory or without, equal snapshots give equal plans.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeAlias

from services.scheduler.planner.fleet import Fleet
from services.scheduler.planner.holdings import holdings
from services.scheduler.planner.quota import Quotas
from services.scheduler.planner.use import Use, held_by
from services.scheduler.snapshot import Assignment, Demand, Node, Slice, Snapshot, Workload

_Held: TypeAlias = tuple[Assignment, Slice]
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
        self._quiet: dict[str, tuple[Workload, tuple[Assignment, ...]]] = {}
        self._quiet_on: dict[str, Node] = {}
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

    def is_quiet(self, workload: Workload, generations: tuple[Assignment, ...]) -> bool:
        """Whether nothing was to be decided about it, and nothing of it or of the nodes has changed since."""
        known = self._quiet.get(workload.name)
        return known is not None and known[0] is workload and known[1] is generations

    def remember_quiet(self, workload: Workload, generations: tuple[Assignment, ...]) -> None:
        """Nothing is to be decided about it until something changes."""
        self._quiet[workload.name] = workload, generations

    def look_at_nodes(self, snapshot: Snapshot) -> None:
        """Forget who was quiet if the nodes are not as they were."""
        if self._quiet_on != snapshot.nodes:
            self._quiet_on = dict(snapshot.nodes)
            self._quiet.clear()
        if len(self._quiet) > 2 * len(snapshot.assignments) + 1000:
            self._quiet.clear()  # most of them have ended

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
        freed: list[_Held] = []
        held: list[_Held] = []
        for name in (*gone, *changed):
            before, after = known.pop(name, ()), assignments.get(name, ())
            was = {_place(each): each for each in holdings(before, self._nodes)}
            held += [each for each in holdings(after, self._nodes) if was.pop(_place(each), None) is None]
            freed += was.values()
            if after:
                known[name] = after
        for each, sign in ((freed, -1), (held, 1)):
            _hold(fleet, each, sign)


def _hold(fleet: Fleet, held: Iterable[_Held], sign: int) -> None:
    """Hold (sign -1: give back) what slices take; those that take no devices are alike."""
    alike: dict[tuple[str, int], tuple[Demand, int]] = {}
    for assignment, each in held:
        demand = assignment.groups[each.group].demand
        if not each.devices and not demand.device_milli:
            key = each.node, id(demand)
            alike[key] = demand, alike.get(key, (demand, 0))[1] + 1
        elif sign > 0:
            fleet.hold(each.node, demand, each.devices)
        else:
            fleet.free(each.node, demand, each.devices)
    for (node, _), (demand, number) in alike.items():
        fleet.hold_alike(node, demand, sign * number)


def _place(held: _Held) -> tuple[object, ...]:
    """Equal for slices that hold the same."""
    assignment, each = held
    return assignment.generation, each.index, each.node, each.devices, id(assignment.groups[each.group].demand)
