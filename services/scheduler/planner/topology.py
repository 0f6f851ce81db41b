"""Where nodes stand: the domains of one level, and how many slices of a demand each of them has room for."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.scheduler.planner.cell import Grid, Machine
from services.scheduler.planner.fit import UNBOUNDED, Filter, Profile
from services.scheduler.planner.fragmentation import tightness

HOST: Final = "host"  # the level at which every node is a domain of its own


class Domains:
    """The nodes of a grid by the value of one label; a node without it is in none."""

    def __init__(self, grid: Grid, level: str) -> None:
        self.grid = grid
        names = {
            machine.name: machine.name if level == HOST else grid.nodes[machine.name].labels.get(level, "")
            for machine in grid.machines.values()
        }
        # A value of one pool and the same value of another are two domains: no ask goes beyond a pool.
        keys = sorted({(grid.nodes[name].pool, value) for name, value in names.items() if value})
        numbers = {key: number for number, key in enumerate(keys)}
        self.of = [-1] * len(names)  # by the position of the node
        self.members: list[list[Machine]] = [[] for _ in keys]
        for machine in grid.machines.values():
            number = numbers.get((grid.nodes[machine.name].pool, names[machine.name]), -1)
            self.of[machine.at] = number
            if number >= 0:
                self.members[number].append(machine)
        if grid.touched is None:
            grid.touched = []


class Rooms:
    """How many slices of one demand fit into each domain; kept up to date by the nodes that have changed."""

    def __init__(self, domains: Domains, profile: Profile, choice: Filter, worst_rank: int) -> None:
        self._domains = domains
        self._profile = profile
        self._filter = choice
        self._worst = worst_rank  # 0: only welcome nodes count; 1: those of last resort too
        self._room: NDArray[np.int64] = np.zeros(len(domains.members), np.int64)
        self._counts = [0] * len(domains.of)
        self._ranks: dict[int, bool] = {}
        self._era = -1
        self._seen = 0

    def current(self) -> NDArray[np.int64]:
        """The room of every domain now."""
        grid = self._domains.grid
        touched = grid.touched
        assert touched is not None
        if self._era != grid.era:
            self._era = grid.era
            self._ranks.clear()
            self._counts = [0] * len(self._counts)
            self._room[:] = 0
            for machine in grid.machines.values():
                self._count(machine)
        elif self._seen != len(touched):
            for machine in set(touched[self._seen :]):
                self._count(machine)
        self._seen = len(touched)
        return self._room

    def fill(self, number: int, wanted: int) -> list[tuple[Machine, int]]:
        """Nodes of a domain, each with how many slices it should take: on the fewest, and of those the tightest."""
        counts = self._counts
        rooms = [(-count, machine) for machine in self._domains.members[number] if (count := counts[machine.at])]
        if wanted == 1:
            best = min((tightness(machine.cell), machine.at, machine) for _, machine in rooms)
            return [(best[2], 1)]
        order = sorted((count, tightness(machine.cell), machine.at, machine) for count, machine in rooms)
        found: list[tuple[Machine, int]] = []
        for position, (count, _, _, machine) in enumerate(order):
            if -count >= wanted:  # this and perhaps later ones take all that is left: the tightest of them does
                enough = [each[1:] for each in order[position:] if -each[0] >= wanted]
                return [*found, (min(enough)[2], wanted)]
            found.append((machine, -count))
            wanted += count
        return found

    def spread(self, number: int, wanted: int) -> list[tuple[Machine, int]]:
        """Nodes of a domain, each with how many slices it should take: as evenly as can be."""
        order = [(machine.at, machine) for machine in self._domains.members[number] if self._counts[machine.at]]
        shares = dict.fromkeys([machine for _, machine in sorted(order)], 0)
        while wanted:
            for machine in shares:
                if wanted and shares[machine] < self._counts[machine.at]:
                    shares[machine] += 1
                    wanted -= 1
        return [(machine, share) for machine, share in shares.items() if share]

    def _count(self, machine: Machine) -> None:
        number = self._domains.of[machine.at]
        if number < 0:
            return
        cell = machine.cell
        build = cell.key[0]
        is_allowed = self._ranks.get(build)
        if is_allowed is None:
            rank = self._filter.rank(cell.build)
            is_allowed = self._ranks[build] = rank is not None and rank <= self._worst
        count = min(cell.count(self._profile), UNBOUNDED) if is_allowed else 0
        before = self._counts[machine.at]
        if count != before:
            self._counts[machine.at] = count
            self._room[number] += count - before


def tightest(rooms: Sequence[NDArray[np.int64]], needed: Sequence[int]) -> list[int]:
    """The domains with room for all of it, those first that would have least left; then by name."""
    if len(rooms) == 1:
        fitting = np.flatnonzero(rooms[0] >= needed[0])
        slack = rooms[0][fitting]
    else:
        fitting = np.flatnonzero(
            np.logical_and.reduce([room >= count for room, count in zip(rooms, needed, strict=True)])
        )
        slack = np.sum([room[fitting] for room in rooms], axis=0)
    found: list[int] = fitting[np.argsort(slack, kind="stable")].tolist()
    return found
