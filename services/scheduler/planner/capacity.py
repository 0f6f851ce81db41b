"""What is free: the nodes' capacity less what the slices of live assignments hold, with takes that can be undone."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from services.scheduler.lifecycle import FINAL
from services.scheduler.snapshot import Assignment, Demand, Node, Slice, Snapshot

WHOLE: Final = 1000  # thousandths of a device


class FreeNode:
    """What one node has left."""

    __slots__ = ("cpu_milli", "devices", "memory_bytes", "models", "node", "storage_bytes")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cpu_milli = node.cpu_milli
        self.memory_bytes = node.memory_bytes
        self.storage_bytes = node.storage_bytes
        self.devices = {device.index: WHOLE for device in sorted(node.devices, key=lambda device: device.index)}
        self.models = {device.index: device.model for device in node.devices}

    @property
    def tightness(self) -> tuple[int, int, int, str]:
        """Orders nodes by what is left on them, least first; total, because of the name."""
        return (sum(self.devices.values()), self.cpu_milli, self.memory_bytes, self.node.name)

    def count(self, demand: Demand, at_most: int) -> int:
        """How many slices of this demand fit, up to `at_most`."""
        for free, each in (
            (self.cpu_milli, demand.cpu_milli),
            (self.memory_bytes, demand.memory_bytes),
            (self.storage_bytes, demand.storage_bytes),
        ):
            if each:
                at_most = min(at_most, free // each)
        if demand.device_milli and at_most > 0:
            at_most = min(at_most, self._device_count(demand))
        return max(0, at_most)

    def take(self, demand: Demand) -> tuple[int, ...]:
        """Hold one slice's demand, which must fit; the indices of its devices."""
        devices = self._choose(demand)
        self.hold(demand, devices)
        return devices

    def hold(self, demand: Demand, devices: Iterable[int], sign: int = 1) -> None:
        """Subtract a slice that is placed here (sign -1: give it back)."""
        self.cpu_milli -= sign * demand.cpu_milli
        self.memory_bytes -= sign * demand.memory_bytes
        self.storage_bytes -= sign * demand.storage_bytes
        each = min(demand.device_milli, WHOLE)
        for index in devices:
            if index in self.devices:
                self.devices[index] -= sign * each

    def _suits(self, index: int, demand: Demand) -> bool:
        return not demand.device_models or self.models[index] in demand.device_models

    def _device_count(self, demand: Demand) -> int:
        free = [left for index, left in self.devices.items() if self._suits(index, demand)]
        if demand.device_milli < WHOLE:
            return sum(left // demand.device_milli for left in free)
        return free.count(WHOLE) // (demand.device_milli // WHOLE)

    def _choose(self, demand: Demand) -> tuple[int, ...]:
        if not demand.device_milli:
            return ()
        suitable = [(left, index) for index, left in self.devices.items() if self._suits(index, demand)]
        if demand.device_milli < WHOLE:
            # The fullest device that has room: shares gather, whole devices stay whole.
            return (min(each for each in suitable if each[0] >= demand.device_milli)[1],)
        whole = [index for left, index in suitable if left == WHOLE]
        return tuple(whole[: demand.device_milli // WHOLE])


class Capacity:
    """What every pool has left."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = {name: FreeNode(nodes[name]) for name in sorted(nodes)}
        self._pools: dict[str, list[FreeNode]] = {}
        for free in self.nodes.values():
            self._pools.setdefault(free.node.pool, []).append(free)
        self._taken: list[tuple[FreeNode, Demand, tuple[int, ...]]] = []

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Capacity":
        """What is free in a snapshot."""
        capacity = cls(snapshot.nodes)
        for generations in snapshot.assignments.values():
            for assignment, held in holdings(generations, snapshot.nodes):
                free = capacity.nodes[held.node]
                free.hold(assignment.groups[held.group].demand, held.devices)
        return capacity

    def pool(self, name: str) -> Iterator[FreeNode]:
        """The nodes of a pool on which work may be placed, by name."""
        return (free for free in self._pools.get(name, ()) if free.node.is_schedulable)

    def take(self, free: FreeNode, demand: Demand) -> tuple[int, ...]:
        """Hold one slice's demand on a node."""
        devices = free.take(demand)
        self._taken.append((free, demand, devices))
        return devices

    def mark(self) -> int:
        """A point to undo to."""
        return len(self._taken)

    def undo(self, mark: int) -> None:
        """Give back everything that was taken since the mark."""
        while len(self._taken) > mark:
            free, demand, devices = self._taken.pop()
            free.hold(demand, devices, -1)


def holdings(generations: Iterable[Assignment], nodes: Mapping[str, Node]) -> Iterator[tuple[Assignment, Slice]]:
    """The slices that hold resources: not ended, not handed to a newer generation, on a living session."""
    handed_over: frozenset[int] = frozenset()
    for assignment in sorted(generations, key=lambda each: -each.generation):
        for each in assignment.slices:
            if each.state in FINAL or each.index in handed_over:
                continue
            node = nodes.get(each.node)
            if node is not None and node.session == assignment.sessions.get(each.node):
                yield assignment, each
        handed_over = assignment.kept
