"""The machines as they really are: which slice sits on which devices. Every start is checked, whoever decided it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from services.scheduler.simulator.job import WHOLE, project_of
from services.scheduler.snapshot import Demand, Node, Slice

_AMOUNTS = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps")


class OverAllocated(Exception):
    """A slice was started where there is no room for it: the planner is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """A slice that is on a machine."""

    workload: str
    generation: int
    index: int
    node: str
    demand: Demand
    devices: tuple[int, ...]


class Machine:
    """One node with what is taken of it."""

    __slots__ = ("devices", "node", "occupants", "taken")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.taken = dict.fromkeys(_AMOUNTS, 0)
        self.devices = {device.index: 0 for device in node.devices}
        self.occupants: set[tuple[str, int, int]] = set()

    @property
    def free_devices(self) -> int:
        """How many devices are wholly free."""
        return sum(not used for used in self.devices.values())

    def check(self, demand: Demand, devices: tuple[int, ...]) -> str:
        """What is wrong with starting a slice here; empty = nothing."""
        wanted = -(-demand.device_milli // WHOLE)
        if len(set(devices)) != len(devices) or len(devices) != wanted:
            return f"{wanted} devices wanted, given {devices}"
        models = {device.index: device.model for device in self.node.devices}
        share = min(demand.device_milli, WHOLE)
        for index in devices:
            if index not in self.devices or self.devices[index] + share > WHOLE:
                return f"device {index} has {self.devices.get(index)} thousandths taken, {share} more are wanted"
            if demand.device_models and models[index] not in demand.device_models:
                return f"device {index} is a {models[index]}"
        for name in _AMOUNTS:
            taken, has, wants = self.taken[name], getattr(self.node, name), getattr(demand, name)
            if wants and taken + wants > has:
                return f"{name}: {taken} of {has} taken, {wants} more are wanted"
        return ""

    def change(self, demand: Demand, devices: tuple[int, ...], sign: int) -> None:
        """Take or give back."""
        for name in _AMOUNTS:
            self.taken[name] += sign * getattr(demand, name)
        for index in devices:
            self.devices[index] += sign * min(demand.device_milli, WHOLE)


class Cluster:
    """All machines that are up."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.used_milli = 0
        self.capacity_milli = 0
        self.by_project: dict[str, int] = defaultdict(int)  # thousandths of devices in use
        self.free_levels: Counter[int] = Counter()  # wholly free devices -> how many machines have so many
        self._occupants: dict[tuple[str, int, int], Occupant] = {}
        self._by_generation: dict[tuple[str, int], set[int]] = defaultdict(set)

    def join(self, node: Node) -> None:
        """A machine is there."""
        machine = self.machines[node.name] = Machine(node)
        self.capacity_milli += WHOLE * len(node.devices)
        self.free_levels[machine.free_devices] += 1

    def leave(self, name: str) -> list[Occupant]:
        """A machine is gone, and with it what ran there."""
        machine = self.machines[name]
        lost = [self.stop(*key) for key in sorted(machine.occupants)]
        del self.machines[name]
        self.capacity_milli -= WHOLE * len(machine.node.devices)
        self.free_levels[machine.free_devices] -= 1
        return [each for each in lost if each is not None]

    def start(self, workload: str, generation: int, each: Slice, demand: Demand) -> None:
        """A slice takes its place; OverAllocated if there is none."""
        machine = self.machines.get(each.node)
        wrong = machine.check(demand, each.devices) if machine else "the node is not there"
        if machine is None or wrong:
            raise OverAllocated(f"slice {each.index} of {workload} on {each.node}: {wrong}")
        occupant = Occupant(
            workload=workload,
            generation=generation,
            index=each.index,
            node=each.node,
            demand=demand,
            devices=each.devices,
        )
        self._put(machine, occupant, 1)

    def stop(self, workload: str, generation: int, index: int) -> Occupant | None:
        """A slice gives its place back; None if it was not there."""
        occupant = self._occupants.get((workload, generation, index))
        if occupant is not None:
            self._put(self.machines[occupant.node], occupant, -1)
        return occupant

    def relabel(self, workload: str, generation: int, index: int) -> bool:
        """A slice goes on as part of this generation, where it is; False if it is not there any more."""
        key, after = (workload, generation - 1, index), (workload, generation, index)
        occupant = self.stop(*key)
        if occupant is None:
            return False
        moved = Slice(index=index, group="", node=occupant.node, devices=occupant.devices)
        self.start(workload, generation, moved, occupant.demand)
        return after in self._occupants

    def indices(self, workload: str, generation: int) -> list[int]:
        """The slices of a generation that are on machines."""
        return sorted(self._by_generation.get((workload, generation), ()))

    def occupants(self) -> Iterator[Occupant]:
        """Everything that is on a machine."""
        return iter(self._occupants.values())

    def _put(self, machine: Machine, occupant: Occupant, sign: int) -> None:
        key = (occupant.workload, occupant.generation, occupant.index)
        members = self._by_generation[key[:2]]
        self.free_levels[machine.free_devices] -= 1
        machine.change(occupant.demand, occupant.devices, sign)
        self.free_levels[machine.free_devices] += 1
        self.used_milli += sign * occupant.demand.device_milli
        self.by_project[project_of(occupant.workload)] += sign * occupant.demand.device_milli
        if sign > 0:
            self._occupants[key] = occupant
            machine.occupants.add(key)
            members.add(occupant.index)
        else:
            del self._occupants[key]
            machine.occupants.discard(key)
            members.discard(occupant.index)
            if not members:
                del self._by_generation[key[:2]]
