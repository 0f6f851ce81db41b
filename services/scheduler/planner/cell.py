"""The grid: nodes gathered in cells of equal build and equal free amounts; moves between cells can be undone."""

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Final

from services.scheduler.planner.fit import RESOURCES, WHOLE, Build, Profile, count
from services.scheduler.snapshot import Node

Key = tuple[int, tuple[int, ...], tuple[int, ...]]  # build, free thousandths by device, free amounts
_LONG: Final = 200_000  # entries after which a log starts afresh
# What a move is known by, beside the demand: the level of the devices that change, and how they were chosen.
_BY_INDEX: Final = 1 << 10
_BACK: Final = 1 << 11


class Machine:
    """One node: what is free on it, device by device."""

    __slots__ = (
        "at",
        "cell",
        "every",
        "free",
        "indices",
        "is_plain",
        "is_uniform",
        "models",
        "name",
        "positions",
        "totals",
    )

    def __init__(self, node: Node, at: int) -> None:
        devices = sorted(node.devices, key=lambda each: (each.model, each.index))
        self.name = node.name
        self.at = at  # its position among all, by name
        self.indices = [each.index for each in devices]
        self.models = tuple(each.model for each in devices)
        self.is_uniform = len(set(self.models)) <= 1
        self.positions = {each.index: position for position, each in enumerate(devices)}
        self.every = tuple(range(len(devices)))
        self.is_plain = self.indices == list(self.every)  # a device's index is its position
        self.free = [WHOLE] * len(devices)
        self.totals: tuple[int, ...] = tuple(getattr(node, name) for name in RESOURCES)
        self.cell: Cell

    def canonical(self) -> tuple[int, ...]:
        """What is free of its devices, whichever they are: sorted among those of a model."""
        if self.is_uniform:
            return tuple(sorted(self.free))
        return tuple(left for _, left in sorted(zip(self.models, self.free, strict=True)))


class Cell:
    """All nodes that no demand can tell apart now."""

    __slots__ = (
        "amounts",
        "build",
        "counts",
        "free",
        "key",
        "machines",
        "moves",
        "row",
        "size",
        "top",
        "total",
        "whole",
    )

    def __init__(self, key: Key, build: Build) -> None:
        self.key = key
        self.build = build
        self.free = key[1]
        self.amounts = key[2]
        self.total = sum(self.free)
        self.whole = self.free.count(WHOLE)
        self.top = max(self.free, default=0)
        self.row = -1  # its place in the indices while it has nodes
        self.size = 0
        self.machines: list[int] = []  # a heap of positions; those of nodes that have left are stale
        self.counts: dict[int, int] = {}
        self.moves: dict[int, Cell] = {}  # what is taken or given back -> where a node goes

    def count(self, profile: Profile) -> int:
        """How many slices fit on one of its nodes."""
        found = self.counts.get(profile.key)
        if found is None:
            found = self.counts[profile.key] = count(self.free, self.build.models, self.amounts, profile)
        return found


class Grid:
    """All nodes in their cells. Rows number the cells that have nodes; what changes is logged for the indices."""

    def __init__(self, nodes: Mapping[str, Node], selected: Iterable[str] = ()) -> None:
        self.rows: list[Cell | None] = []
        self.log: list[int] = []  # rows that were taken or left
        self.era = 0  # goes up when the logs start afresh
        self.touched: list[Machine] | None = None  # nodes that have changed, once somebody wants to know
        self.builds: list[Build] = []
        self.labels = frozenset(selected)
        self.nodes = nodes
        self.machines = {name: Machine(nodes[name], at) for at, name in enumerate(sorted(nodes))}
        self.order = list(self.machines.values())
        self._cells: dict[Key, Cell] = {}
        self._free_rows: list[int] = []
        self._done: list[tuple[Machine, Cell, Sequence[int], int]] = []
        self._gather()

    def first(self, cell: Cell) -> Machine:
        """The first node of a cell by name."""
        machines, order = cell.machines, self.order
        while (machine := order[machines[0]]).cell is not cell:
            heappop(machines)
        return machine

    def members(self, cell: Cell) -> list[Machine]:
        """The nodes of a cell, by name."""
        order = self.order
        cell.machines = sorted({at for at in cell.machines if order[at].cell is cell})
        return [order[at] for at in cell.machines]

    def take(self, machine: Machine, profile: Profile, level: int = WHOLE) -> tuple[int, ...]:
        """Hold a slice that fits: on devices with so much free, the first of them; their indices."""
        before, free, number = machine.cell, machine.free, profile.devices
        positions: Sequence[int]
        if number == 1:
            at = self._position(machine, profile, level)
            free[at] -= profile.each
            positions = (at,)
        elif number and number == before.whole and machine.is_uniform and number == len(free):
            positions = machine.every
            free[:] = [0] * number
        else:
            positions = self._positions(machine, profile) if number else ()
            for at in positions:
                free[at] = 0
        after = before.moves.get(profile.code | level)
        if after is None:
            after = before.moves[profile.code | level] = self._after(machine, profile, 1)
        self._done.append((machine, before, positions, profile.each))
        self._move(machine, after)
        if machine.is_plain:
            return tuple(positions)
        indices = machine.indices
        return tuple([indices[at] for at in positions])

    def hold_many(self, machine: Machine, profile: Profile, number: int) -> None:
        """Hold (a negative number: give back) so many slices that take no devices, in one move."""
        before = machine.cell
        amounts = tuple([left - number * taken for left, taken in zip(before.amounts, profile.amounts, strict=True)])
        self._done.append((machine, before, (), 0))
        self._move(machine, self._cell((before.key[0], before.key[1], amounts)))

    def hold(self, name: str, profile: Profile, devices: Sequence[int], sign: int = 1) -> None:
        """Hold (sign -1: give back) what a slice takes of a node; a node or device that is not there is passed over."""
        machine = self.machines.get(name)
        if machine is None:
            return
        free = machine.free
        if not machine.is_plain or (devices and max(devices) >= len(free)):
            known = machine.positions
            devices = [known[index] for index in devices if index in known]
        positions = devices
        before, each = machine.cell, sign * profile.each
        level = free[positions[0]] if positions else 0
        is_alike = len(positions) == profile.devices and machine.is_uniform and 0 <= level <= WHOLE
        for at in positions:
            is_alike = is_alike and free[at] == level
            free[at] -= each
        after = None
        if is_alike:
            code = profile.code | _BY_INDEX | level | (_BACK if sign < 0 else 0)
            after = before.moves.get(code)
            if after is None:
                after = before.moves[code] = self._after(machine, profile, sign)
        self._done.append((machine, before, positions, each))
        self._move(machine, after or self._after(machine, profile, sign))

    def mark(self) -> int:
        """A point to undo to."""
        return len(self._done)

    def undo(self, mark: int) -> None:
        """Back to where it was at the mark."""
        done = self._done
        while len(done) > mark:
            machine, before, positions, each = done.pop()
            for at in positions:
                machine.free[at] += each
            self._move(machine, before)

    def settle(self) -> None:
        """Forget how to undo what was done: it stays."""
        self._done.clear()

    def regroup(self, keys: Iterable[str]) -> None:
        """Tell nodes apart by these labels too."""
        self.labels |= frozenset(keys)
        amounts = {machine.name: machine.cell.amounts for machine in self.machines.values()}
        self._gather(amounts)

    def _position(self, machine: Machine, profile: Profile, level: int) -> int:
        if machine.is_uniform or not profile.models:
            return machine.free.index(level)
        return next(
            at for at, left in enumerate(machine.free) if left == level and machine.models[at] in profile.models
        )

    def _positions(self, machine: Machine, profile: Profile) -> list[int]:
        free, suits, models = machine.free, profile.suits, machine.models
        if profile.models and not machine.is_uniform:
            whole = [at for at, left in enumerate(free) if left == WHOLE and suits(models[at])]
            return whole[: profile.devices]
        found, at = [], -1
        for _ in range(profile.devices):
            at = free.index(WHOLE, at + 1)
            found.append(at)
        return found

    def _after(self, machine: Machine, profile: Profile, sign: int) -> Cell:
        """Where a node goes whose devices are changed already, and whose other resources are not."""
        before = machine.cell
        amounts = tuple([left - sign * taken for left, taken in zip(before.amounts, profile.amounts, strict=True)])
        return self._cell((before.key[0], machine.canonical(), amounts))

    def _move(self, machine: Machine, cell: Cell) -> None:
        before = machine.cell
        if before is cell:
            return
        before.size -= 1
        if not before.size:
            self._leave(before)
        elif before.machines[0] == machine.at:
            heappop(before.machines)
        if not cell.size:
            cell = self._cells.setdefault(cell.key, cell)
            if not cell.size:
                self._settle_in(cell)
        machine.cell = cell
        cell.size += 1
        heappush(cell.machines, machine.at)
        if len(cell.machines) > 2 * cell.size + 64:
            self.members(cell)
        if self.touched is not None:
            self.touched.append(machine)
            if len(self.touched) > _LONG:
                self._start_afresh()

    def _settle_in(self, cell: Cell) -> None:
        if self._free_rows:
            cell.row = heappop(self._free_rows)
            self.rows[cell.row] = cell
        else:
            cell.row = len(self.rows)
            self.rows.append(cell)
        self.log.append(cell.row)
        if len(self.log) > _LONG:
            self._start_afresh()

    def _leave(self, cell: Cell) -> None:
        self.rows[cell.row] = None
        self.log.append(cell.row)
        heappush(self._free_rows, cell.row)
        cell.row = -1
        cell.machines.clear()

    def _cell(self, key: Key) -> Cell:
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) > 8 * len(self.rows) + 10_000:
                self._cells = {each.key: each for each in self.rows if each is not None}
            cell = self._cells[key] = Cell(key, self.builds[key[0]])
        return cell

    def _start_afresh(self) -> None:
        self.log.clear()
        if self.touched is not None:
            self.touched.clear()
        self.era += 1

    def _gather(self, amounts: Mapping[str, tuple[int, ...]] | None = None) -> None:
        """Put every node into its cell, from nothing."""
        numbers: dict[Build, int] = {}
        self._cells, self._free_rows, self.rows = {}, [], []
        self._start_afresh()
        self.builds.clear()
        for name, machine in self.machines.items():
            build = self._build(name, machine)
            number = numbers.setdefault(build, len(numbers))
            if number == len(self.builds):
                self.builds.append(build)
            left = amounts[name] if amounts else machine.totals
            key = (number, machine.canonical(), left)
            cell = self._cells.get(key) or self._cells.setdefault(key, Cell(key, build))
            if not cell.size:
                self._settle_in(cell)
            machine.cell = cell
            cell.size += 1
            cell.machines.append(machine.at)
        # What was done before is undone into cells of before: their keys are numbered anew.
        self._done = [
            (machine, self._anew(machine, before), positions, each) for machine, before, positions, each in self._done
        ]

    def _anew(self, machine: Machine, before: Cell) -> Cell:
        return self._cell((machine.cell.key[0], before.free, before.amounts))

    def _build(self, name: str, machine: Machine) -> Build:
        node = self.nodes[name]
        return Build(
            pool=node.pool,
            models=machine.models,
            taints=tuple(sorted(node.taints, key=lambda each: (each.key, each.value, each.effect))),
            labels=tuple(sorted((key, value) for key, value in node.labels.items() if key in self.labels)),
            is_schedulable=node.is_schedulable,
        )
