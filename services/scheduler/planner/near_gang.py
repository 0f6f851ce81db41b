"""Slices that are placed together near to each other: a whole gang, or each part of it, within one domain."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.scheduler.planner.ask import Ask, Want
from services.scheduler.planner.gang import Gang
from services.scheduler.planner.lanes import Found, Lanes
from services.scheduler.planner.topology import Rooms, tightest
from services.scheduler.snapshot import Topology

_Part = Sequence[tuple[Want, int]]  # what must be within one domain


class NearGang:
    """What one ask with a topology is given, held on the grid as it is found."""

    def __init__(self, lanes: Lanes, ask: Ask, topology: Topology) -> None:
        self._lanes = lanes
        self._grid = lanes.grid
        self._ask = ask
        self._topology = topology
        self._anywhere = Gang(lanes, ask)

    def least(self) -> Found | None:
        """Places for everyone's least, each part of the gang within one domain."""
        found: Found = []
        for part in self._parts():
            placed = self._within(part)
            if placed is None and not self._topology.is_required:
                placed = self._across(part)
            if placed is None:
                return None
            found += placed
        return found

    def more(self, want: Want, found: Found) -> Found:
        """Places for what is wanted beyond the least: in the gang's own domain, or by whole parts in others."""
        if self._topology.slice_size:
            return self._more_parts(want)
        more: Found = []
        left = want.most - want.least
        anchors = [machine.name for _, machine, _ in found] or list(self._ask.near)
        for worst in self._anywhere.lane(want).worsts:
            rooms = self._rooms(want, worst)
            theirs = self._domains_of(anchors)
            if not anchors and left:
                theirs = dict.fromkeys([int(rooms.current().argmax())] if len(rooms.current()) else [])
            for number in theirs:
                if number >= 0:
                    left -= self._into(want, rooms, number, left, more)
        if left and not self._topology.is_required:
            more += self._anywhere.fill(want, left, {})
        return more

    def room(self) -> int:
        """How many of everyone's least would fit; nothing is held."""
        if not self._topology.is_required:
            return self._anywhere.room()
        size = self._topology.slice_size
        every = [(want.least, self._largest(want).current()) for want in self._ask.wants if want.least]
        if not every or not len(every[0][1]):
            return 0
        if size:
            return sum(_in_parts(least, room, size) for least, room in every)
        return int(np.sum([room.clip(max=least) for least, room in every], axis=0).max())

    def _parts(self) -> list[_Part]:
        size = self._topology.slice_size
        wanted = [(want, want.least) for want in self._ask.wants if want.least]
        if not size:
            return [wanted] if wanted else []
        return [[(want, min(size, least - begin))] for want, least in wanted for begin in range(0, least, size)]

    def _rooms(self, want: Want, worst: int) -> Rooms:
        return self._lanes.rooms(self._anywhere.lane(want), self._topology.level, worst)

    def _largest(self, want: Want) -> Rooms:
        """The rooms on all nodes that may be used, those of last resort too."""
        return self._rooms(want, self._anywhere.lane(want).worsts[-1])

    def _domains_of(self, names: Sequence[str]) -> dict[int, None]:
        of, machines = self._lanes.domains(self._topology.level).of, self._grid.machines
        return dict.fromkeys(of[machines[name].at] for name in names if name in machines)

    def _within(self, part: _Part) -> Found | None:
        """Places within one domain, if it can be on nodes that welcome it."""
        worsts = self._anywhere.lane(part[0][0]).worsts
        return next((one for worst in worsts if (one := self._part(part, worst)) is not None), None)

    def _part(self, part: _Part, worst: int) -> Found | None:
        """Places within the domain of best fit; where slices stay, within theirs."""
        every = [self._rooms(want, worst) for want, _ in part]
        candidates = tightest([rooms.current() for rooms in every], [number for _, number in part])
        if self._ask.near and not self._topology.slice_size:
            theirs = self._domains_of(self._ask.near)
            if self._topology.is_required:
                candidates = [number for number in candidates if number in theirs and len(theirs) == 1]
            else:
                candidates.sort(key=lambda number: number not in theirs)
        for number in candidates:
            mark, found = self._grid.mark(), Found()
            for (want, wanted), rooms in zip(part, every, strict=True):
                if self._into(want, rooms, number, wanted, found) < wanted:
                    self._grid.undo(mark)
                    break
            else:
                return found
        return None

    def _into(self, want: Want, rooms: Rooms, number: int, wanted: int, found: Found) -> int:
        """Hold up to `wanted` places in one domain; how many there were."""
        wanted = min(wanted, int(rooms.current()[number]))
        if wanted <= 0:
            return 0
        lane = self._anywhere.lane(want)
        for machine, share in rooms.spread(number, wanted) if self._ask.is_spread else rooms.fill(number, wanted):
            self._anywhere.take(found, want, lane, machine, share)
        return wanted

    def _across(self, part: _Part) -> Found | None:
        """Places in as few domains as can be, and then anywhere."""
        found: Found = []
        for want, wanted in part:
            left = wanted
            for worst in self._anywhere.lane(want).worsts:
                rooms = self._rooms(want, worst)
                while left:
                    room = rooms.current()
                    enough = tightest([room], [left])
                    if not enough and not room.any():
                        break
                    left -= self._into(want, rooms, enough[0] if enough else int(room.argmax()), left, found)
            rest = self._anywhere.fill(want, left, {}) if left else []
            if len(rest) < left:
                return None
            found += rest
        return found

    def _more_parts(self, want: Want) -> Found:
        more: Found = []
        left = want.most - want.least
        while left > 0:
            placed = self._within([(want, min(self._topology.slice_size, left))])
            if not placed:
                break
            more += placed
            left -= len(placed)
        if left and not self._topology.is_required:
            more += self._anywhere.fill(want, left, {})
        return more


def _in_parts(least: int, room: NDArray[np.int64], size: int) -> int:
    """How many slices fit in whole parts, of which the last may be smaller."""
    wanted, rest = divmod(least, size)
    parts = int((room // size).sum())
    has_rest = rest and (parts > wanted or bool((room % size >= rest).any()))
    return min(parts, wanted) * size + (rest if has_rest else 0)
