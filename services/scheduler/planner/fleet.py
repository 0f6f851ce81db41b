"""The fleet: what is free of it, and where slices go; every change can be undone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from services.scheduler.planner.ask import Ask, Shortage, Spot, Want
from services.scheduler.planner.cell import Cell, Machine
from services.scheduler.planner.fit import RESOURCES, WHOLE, Filter, Profile
from services.scheduler.planner.gang import Gang
from services.scheduler.planner.holdings import holdings
from services.scheduler.planner.lanes import Found, Lanes
from services.scheduler.planner.near_gang import NearGang
from services.scheduler.snapshot import Assignment, Demand, Node, Snapshot

__all__ = ["Ask", "Fleet", "Shortage", "Spot", "Want"]

_MANY: Final = 10_000


class Fleet:
    """Free capacity with undo, indexed so that a decision costs microseconds."""

    def __init__(self, nodes: Mapping[str, Node], selected: Iterable[str] = ()) -> None:
        self._lanes = Lanes(nodes, selected)
        self._grid = self._lanes.grid
        self._empty: Fleet | None = None
        self._ever: dict[Ask, bool] = {}

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Fleet":
        """What is free beside what runs in a snapshot; what its workloads ask for says what is typical."""
        workloads = snapshot.workloads.values()
        fleet = cls(snapshot.nodes, {key for each in workloads for key, _ in each.selector})
        for name in sorted(snapshot.assignments):
            for assignment, held in holdings(snapshot.assignments[name], snapshot.nodes):
                fleet.hold(held.node, assignment.groups[held.group].demand, held.devices)
        fleet.settle()
        for each in workloads:
            for group in each.groups:
                fleet.expect(group.demand, group.min_count)
        return fleet

    def expect(self, demand: Demand, number: float = 1.0) -> None:
        """This was asked for so often: it is what room should be kept for."""
        self._lanes.mix.add(demand, number)

    def expect_only(self, numbers: Mapping[Demand, float]) -> None:
        """Nothing else was asked for."""
        self._lanes.mix.restart(numbers)

    def mark(self) -> int:
        """A point to undo to."""
        return self._grid.mark()

    def undo(self, mark: int) -> None:
        """Give back everything that was taken since the mark, and take what was given back."""
        self._grid.undo(mark)

    def settle(self) -> None:
        """Forget how to undo what was done so far: it stays."""
        self._grid.settle()

    def hold(self, node: str, demand: Demand, devices: Sequence[int]) -> None:
        """Hold what one slice takes of a node."""
        self._grid.hold(node, self._lanes.profile(demand), devices)

    def hold_alike(self, node: str, demand: Demand, number: int) -> None:
        """Hold (a negative number: give back) what so many slices without devices take of a node."""
        machine = self._grid.machines.get(node)
        if machine is not None and number:
            self._grid.hold_many(machine, self._lanes.profile(demand), number)

    def release(self, assignment: Assignment, indices: Iterable[int] | None = None) -> None:
        """As if these slices (none named: all) of an assignment had ended."""
        wanted = None if indices is None else frozenset(indices)
        for each in assignment.slices:
            if wanted is None or each.index in wanted:
                self.free(each.node, assignment.groups[each.group].demand, each.devices)

    def free(self, node: str, demand: Demand, devices: Sequence[int]) -> None:
        """Give back what one slice takes of a node."""
        self._grid.hold(node, self._lanes.profile(demand), devices, -1)

    def fill(self, node: str) -> None:
        """Hold all that is free of a node."""
        machine = self._grid.machines.get(node)
        if machine is None:
            return
        whole = [machine.indices[at] for at, left in enumerate(machine.free) if left == WHOLE]
        cpu, memory, storage, network = (max(0, left) for left in machine.cell.amounts)
        rest = Demand(
            cpu_milli=cpu,
            memory_bytes=memory,
            storage_bytes=storage,
            network_mbps=network,
            device_milli=WHOLE * len(whole),
        )
        self.hold(node, rest, whole)

    def place(self, ask: Ask) -> tuple[Spot, ...] | None:
        """Hold places: everyone's least first, then as much of the rest as fits; None if not even the least."""
        self._lanes.prepare(ask)
        if len(ask.wants) == 1 and ask.wants[0].most == 1 and ask.topology is None and not ask.near:
            return self._one(ask, ask.wants[0])
        mark = self._grid.mark()
        gang = self._gang(ask)
        found = gang.least()
        if found is None:
            self._grid.undo(mark)
            return None
        for want in ask.wants:
            if want.most > want.least:
                found += gang.more(want, found)
        return _in_ranks(found, ask.wants)

    def room(self, ask: Ask) -> int:
        """How many of the slices that are wanted at least would fit; holds nothing."""
        self._lanes.prepare(ask)
        return self._gang(ask).room()

    def shortages(self, ask: Ask) -> list[Shortage]:
        """What the nodes that may be used have too little of, in sum."""
        self._lanes.prepare(ask)
        choice = Filter(ask.pool, ask.selector, ask.tolerations)
        cells = [cell for cell in self._grid.rows if cell is not None and choice.rank(cell.build) is not None]
        profiles = [(self._lanes.profile(want.group.demand), want.least) for want in ask.wants]
        free = {name: sum(cell.size * max(0, cell.amounts[at]) for cell in cells) for at, name in enumerate(RESOURCES)}
        free["device_milli"] = sum(
            cell.size * max((_suitable(cell, profile) for profile, _ in profiles), default=0) for cell in cells
        )
        needed = {name: sum(each.amounts[at] * least for each, least in profiles) for at, name in enumerate(RESOURCES)}
        needed["device_milli"] = sum(each.milli * least for each, least in profiles)
        return [
            Shortage(resource=name, needed=needed[name], free=free[name])
            for name in ("device_milli", *RESOURCES)
            if needed[name] > free[name]
        ]

    def ever_fits(self, ask: Ask) -> bool:
        """Whether the least would fit if nothing else ran."""
        if ask not in self._ever:
            if self._empty is None:
                self._empty = Fleet(self._grid.nodes, self._grid.labels)
            if len(self._ever) >= _MANY:
                self._ever.clear()
            mark = self._empty.mark()
            self._ever[ask] = self._empty.place(ask) is not None
            self._empty.undo(mark)
        return self._ever[ask]

    def _gang(self, ask: Ask) -> Gang | NearGang:
        if ask.topology is None:
            return Gang(self._lanes, ask)
        return NearGang(self._lanes, ask, ask.topology)

    def _one(self, ask: Ask, want: Want) -> tuple[Spot, ...] | None:
        """The common case: a single slice that may go anywhere."""
        lane = self._lanes.lane(ask, want.group.demand)
        best = (lane.views.get(1) or self._lanes.view(lane, 1)).best(self._lanes.measure)
        if best is None:
            return () if not want.least else None
        machine = self._grid.first(best[0])
        devices = self._grid.take(machine, lane.profile, best[1])
        return (Spot(group=want.group.name, node=machine.name, devices=devices),)


def _in_ranks(found: Found, wants: Sequence[Want]) -> tuple[Spot, ...]:
    """Group by group, and within a group node by node, so that neighbours in rank share a node."""
    nodes: dict[Machine, int] = {}
    for _, machine, _ in found:
        nodes.setdefault(machine, len(nodes))
    groups = {want.group.name: position for position, want in enumerate(wants)}
    found.sort(key=lambda each: (groups[each[0]], nodes[each[1]]))
    return tuple([Spot(group=group, node=machine.name, devices=devices) for group, machine, devices in found])


def _suitable(cell: Cell, profile: Profile) -> int:
    return sum(max(0, left) for left, model in zip(cell.free, cell.build.models, strict=True) if profile.suits(model))
