"""What is kept for each kind of ask between decisions: who may take it, and the indices that find the best node."""

from collections.abc import Iterable, Mapping
from typing import Final

from services.scheduler.planner.ask import Ask
from services.scheduler.planner.cell import Cell, Grid, Machine
from services.scheduler.planner.fit import Build, Filter, Profile
from services.scheduler.planner.fragmentation import Fragmentation
from services.scheduler.planner.mix import Mix
from services.scheduler.planner.topology import Domains, Rooms
from services.scheduler.planner.view import View
from services.scheduler.snapshot import Demand, Node, Toleration

Found = list[tuple[str, Machine, tuple[int, ...]]]  # group, node, devices
_Key = tuple[str, int, tuple[tuple[str, str], ...], tuple[Toleration, ...]]
_MANY: Final = 100_000


class Lane:
    """All that is kept for one demand of one kind of asker."""

    __slots__ = ("filter", "profile", "rooms", "views", "worsts")

    def __init__(self, profile: Profile, choice: Filter, builds: Iterable[Build]) -> None:
        self.profile = profile
        self.filter = choice
        has_last_resort = any(choice.rank(build) for build in builds)
        self.worsts = (0, 1) if has_last_resort else (0,)  # ranks of nodes to try, and then these too
        self.views: dict[int, View] = {}
        self.rooms: dict[tuple[str, int], Rooms] = {}


class Lanes:
    """The lanes of one fleet, with the measure that they share."""

    def __init__(self, nodes: Mapping[str, Node], selected: Iterable[str]) -> None:
        self.grid = Grid(nodes, selected)
        self.mix = Mix(nodes.values())
        self.measure = Fragmentation(self.grid, self.mix.typical())
        self._profiles: dict[Demand, Profile] = {}
        self._seen: dict[int, tuple[Demand, Profile]] = {}  # by identity: hashing a demand costs more than a decision
        self._lanes: dict[_Key, Lane] = {}
        self._domains: dict[str, Domains] = {}

    def prepare(self, ask: Ask) -> None:
        """Bring the measure up to date with what is asked for, and tell nodes apart by what is selected."""
        typical = self.mix.typical()
        if typical is not self.measure.typical:
            self.measure = Fragmentation(self.grid, typical)
        if ask.selector and not self.grid.labels.issuperset(key for key, _ in ask.selector):
            self.grid.regroup(key for key, _ in ask.selector)
            self._lanes.clear()
            self.measure = Fragmentation(self.grid, typical)

    def profile(self, demand: Demand) -> Profile:
        """The demand, taken apart."""
        seen = self._seen.get(id(demand))
        if seen is not None:
            return seen[1]
        profile = self._profiles.get(demand)
        if profile is None:
            profile = self._profiles[demand] = Profile(demand, len(self._profiles))
        if len(self._seen) >= _MANY:
            self._seen.clear()
        self._seen[id(demand)] = (demand, profile)
        return profile

    def lane(self, ask: Ask, demand: Demand) -> Lane:
        """The lane of a demand of this asker."""
        profile = self.profile(demand)
        key = (ask.pool, profile.key, ask.selector, ask.tolerations)
        lane = self._lanes.get(key)
        if lane is None:
            choice = Filter(ask.pool, ask.selector, ask.tolerations)
            lane = self._lanes[key] = Lane(profile, choice, self.grid.builds)
        return lane

    def view(self, lane: Lane, slices: int) -> View:
        """Where so many slices go best on one node."""
        view = lane.views.get(slices)
        if view is None:
            view = lane.views[slices] = View(self.grid, lane.profile, lane.filter, slices)
        return view

    def best(self, lane: Lane, slices: int) -> tuple[Cell, int] | None:
        """The cell whose nodes take so many slices best, and the level of the device to take."""
        return self.view(lane, slices).best(self.measure)

    def domains(self, level: str) -> Domains:
        """The nodes by where they stand."""
        domains = self._domains.get(level)
        if domains is None:
            domains = self._domains[level] = Domains(self.grid, level)
        return domains

    def rooms(self, lane: Lane, level: str, worst_rank: int) -> Rooms:
        """How many slices fit into each domain."""
        rooms = lane.rooms.get((level, worst_rank))
        if rooms is None:
            domains = self.domains(level)
            rooms = lane.rooms[level, worst_rank] = Rooms(domains, lane.profile, lane.filter, worst_rank)
        return rooms
