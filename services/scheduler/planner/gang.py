"""Slices that are placed together wherever they fit: on the fewest nodes, or spread over as many as can be."""

from collections.abc import Mapping
from heapq import heappop

from services.scheduler.planner.ask import Ask, Want
from services.scheduler.planner.cell import Machine
from services.scheduler.planner.fit import WHOLE
from services.scheduler.planner.lanes import Found, Lane, Lanes
from services.scheduler.planner.view import WIDEST


class Gang:
    """What one ask is given, held on the grid as it is found."""

    def __init__(self, lanes: Lanes, ask: Ask) -> None:
        self.lanes = lanes
        self.grid = lanes.grid
        self.ask = ask

    def least(self) -> Found | None:
        """Places for everyone's least, or None."""
        found: Found = []
        used: dict[Machine, int] = {}
        for want in self.ask.wants:
            part = self.fill(want, want.least, used)
            if len(part) < want.least:
                return None
            found += part
        return found

    def more(self, want: Want, found: Found) -> Found:
        """Places for what is wanted beyond the least, as far as there are any."""
        used: dict[Machine, int] = {}
        for _, machine, _ in found:
            used[machine] = used.get(machine, 0) + 1
        return self.fill(want, want.most - want.least, used)

    def room(self) -> int:
        """How many of everyone's least would fit; nothing stays held."""
        mark = self.grid.mark()
        fits = sum(len(self.fill(want, want.least, {})) for want in self.ask.wants)
        self.grid.undo(mark)
        return fits

    def lane(self, want: Want) -> Lane:
        """What is kept for the demand of a group."""
        return self.lanes.lane(self.ask, want.group.demand)

    def fill(self, want: Want, wanted: int, used: dict[Machine, int]) -> Found:
        """Hold as many places as there are, up to `wanted`; `used` says how many of the gang a node has."""
        lane = self.lane(want)
        if self.ask.is_spread:
            return self._spread(want, lane, wanted, used)
        found: Found = []
        left = wanted - self._beside(want, lane, wanted, found)
        while left > 0:
            best = self.lanes.best(lane, 1 if left == 1 else WIDEST)
            if best is None:
                break
            number = min(left, best[0].count(lane.profile))
            if number == left > 1:
                best = self.lanes.best(lane, left) or best  # the tightest of those that hold all that is left
            cell = best[0]
            while True:  # a node that has taken its part is no wider than those that were like it
                self.take(found, want, lane, self.grid.first(cell), number)
                left -= number
                if left <= number or not cell.size:
                    break
        return found

    def take(self, found: Found, want: Want, lane: Lane, machine: Machine, number: int) -> None:
        """Hold so many slices on a node that has room for them."""
        profile, name = lane.profile, want.group.name
        if not profile.devices and number > 1:
            self.grid.hold_many(machine, profile, number)
            found.extend([(name, machine, ())] * number)
            return
        is_share = profile.devices and profile.each < WHOLE
        for _ in range(number):
            level = self.lanes.measure.level(profile, machine.cell) if is_share else WHOLE
            found.append((name, machine, self.grid.take(machine, profile, level)))

    def _beside(self, want: Want, lane: Lane, wanted: int, found: Found) -> int:
        """Hold places on the nodes where the gang is already."""
        left = wanted
        for name in dict.fromkeys(self.ask.near):
            machine = self.grid.machines.get(name)
            if machine is not None and left and lane.filter.rank(machine.cell.build) is not None:
                number = min(left, machine.cell.count(lane.profile))
                self.take(found, want, lane, machine, number)
                left -= number
        return wanted - left

    def _spread(self, want: Want, lane: Lane, wanted: int, used: dict[Machine, int]) -> Found:
        """Hold places on as many nodes as can be: each takes one before any takes another."""
        found: Found = []
        if not used:
            used.update(self._near())
        view, turn = self.lanes.view(lane, 1), 0
        while len(found) < wanted:
            is_done = True
            for cell in view.ranking(self.lanes.measure):
                waiting = list(cell.machines)
                while waiting and len(found) < wanted:
                    machine = self.grid.order[heappop(waiting)]
                    if machine.cell is not cell:
                        continue
                    is_done = False
                    if used.get(machine, 0) <= turn:
                        used[machine] = used.get(machine, 0) + 1
                        self.take(found, want, lane, machine, 1)
            if is_done:
                break
            turn += 1
        return found

    def _near(self) -> Mapping[Machine, int]:
        """How many of the slices that stay are on each node."""
        used: dict[Machine, int] = {}
        for name in self.ask.near:
            machine = self.grid.machines.get(name)
            if machine is not None:
                used[machine] = used.get(machine, 0) + 1
        return used
