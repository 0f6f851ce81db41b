"""What holds resources: the slices of a workload's generations that may be running on a living session."""

from collections.abc import Iterable, Iterator, Mapping

from services.scheduler.lifecycle import FINAL
from services.scheduler.snapshot import Assignment, Node, Slice


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
