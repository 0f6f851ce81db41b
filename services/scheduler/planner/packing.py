"""Where a gang goes: whole or not at all, in one pool, on the fewest nodes, and of those the tightest."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.scheduler.planner.capacity import Capacity
from services.scheduler.snapshot import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """How many more slices of a group are wanted: at least so many, at most so many."""

    group: Group
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A place for one slice."""

    group: str
    node: str
    devices: tuple[int, ...]


def pack(capacity: Capacity, pool: str, wants: Sequence[Want]) -> tuple[Spot, ...] | None:
    """Hold places in a pool: everyone's least first, then as much of the rest as fits; None if not even the least."""
    mark = capacity.mark()
    spots: list[Spot] = []
    for want in wants:
        found = _fill(capacity, pool, want.group, want.least)
        if len(found) < want.least:
            capacity.undo(mark)
            return None
        spots += found
    for want in wants:
        spots += _fill(capacity, pool, want.group, want.most - want.least)
    return tuple(_in_ranks(spots, wants))


def room(capacity: Capacity, pool: str, wants: Sequence[Want]) -> int:
    """How many of the slices that are wanted at least would fit; holds nothing."""
    mark = capacity.mark()
    count = sum(len(_fill(capacity, pool, want.group, want.least)) for want in wants)
    capacity.undo(mark)
    return count


def _fill(capacity: Capacity, pool: str, group: Group, wanted: int) -> list[Spot]:
    """Hold as many places as there are, up to `wanted`."""
    spots: list[Spot] = []
    if wanted <= 0:
        return spots
    rooms = [(free.count(group.demand, wanted), free) for free in capacity.pool(pool)]
    rooms = [each for each in rooms if each[0]]
    rooms.sort(key=lambda each: (-each[0], each[1].tightness))
    for position, (size, free) in enumerate(rooms):
        left = wanted - len(spots)
        if size >= left:  # this and perhaps later ones take all that is left: the tightest of them does
            enough = (each for each in rooms[position:] if each[0] >= left)
            size, free = left, min(enough, key=lambda each: each[1].tightness)[1]
        spots += [
            Spot(group=group.name, node=free.node.name, devices=capacity.take(free, group.demand)) for _ in range(size)
        ]
        if len(spots) == wanted:
            break
    return spots


def _in_ranks(spots: list[Spot], wants: Sequence[Want]) -> list[Spot]:
    """Group by group, and within a group node by node, so that neighbours in rank share a node."""
    nodes: dict[str, int] = {}
    for spot in spots:
        nodes.setdefault(spot.node, len(nodes))
    groups = {want.group.name: position for position, want in enumerate(wants)}
    return sorted(spots, key=lambda spot: (groups[spot.group], nodes[spot.node]))
