"""From places to a generation: its slices get their numbers, so that neighbours in rank share a node."""

from collections.abc import Iterable, Mapping, Sequence

from services.scheduler.planner.ask import Spot
from services.scheduler.planner.decision import Placement
from services.scheduler.snapshot import Assignment, Group, Slice, Snapshot, Workload


def numbered(kept: Sequence[Slice], spots: Iterable[Spot], groups: Sequence[Group]) -> tuple[Slice, ...]:
    """The slices of a generation: those that stay keep their index, the others take the lowest that are free."""
    spots = in_ranks(spots, groups)
    taken = {each.index for each in kept}
    free = (index for index in range(len(kept) + len(spots)) if index not in taken)
    added = [
        Slice(index=index, group=spot.group, node=spot.node, devices=spot.devices)
        for index, spot in zip(free, spots, strict=False)
    ]
    return tuple(sorted([*kept, *added], key=lambda each: each.index))


def in_ranks(spots: Iterable[Spot], groups: Sequence[Group]) -> list[Spot]:
    """Group by group, and within a group node by node."""
    spots = list(spots)
    nodes: dict[str, int] = {}
    for spot in spots:
        nodes.setdefault(spot.node, len(nodes))
    order = {group.name: position for position, group in enumerate(groups)}
    return sorted(spots, key=lambda spot: (order[spot.group], nodes[spot.node]))


def placement_of(
    workload: Workload,
    pool: str,
    spots: Iterable[Spot],
    snapshot: Snapshot,
    kept: Sequence[Slice] = (),
    before: Assignment | None = None,
) -> Placement:
    """A new generation on these places, and on those of the slices that are kept of the one before."""
    slices = numbered(kept, spots, workload.groups)
    indices = frozenset(each.index for each in kept)
    # A slice that is kept and still runs is on its node's present session; one that has ended needs none.
    sessions = {each.node: before.sessions[each.node] for each in kept} if before is not None else {}
    sessions |= {each.node: snapshot.nodes[each.node].session for each in slices if each.index not in indices}
    return Placement(pool=pool, slices=slices, kept=indices, sessions=tuple(sorted(sessions.items())))


def counts_of(slices: Iterable[Slice]) -> dict[str, int]:
    """How many there are of each group."""
    counts: dict[str, int] = {}
    for each in slices:
        counts[each.group] = counts.get(each.group, 0) + 1
    return counts


def as_granted(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """In the form that a workload keeps."""
    return tuple(sorted(counts.items()))
