"""Which servers still answer though their slice has a successor: Envoy has to know both until it has found the new one.

A slice that goes from one address to another without having been anything but READY has had a successor started, and
the server of before serves until nobody calls it any more. A server that died is never kept: its slice was STARTING.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from lepton.scheduler.v1.workload_pb2 import Slice, Workload

LINGERS_S: Final = 2.0
"""Longer than Envoy takes to see that a successor is healthy; the server of before waits for so long a silence."""


class Lingering:
    """The slices as they were, for a while; `note` hears every workload before it is replaced by its next state."""

    def __init__(self) -> None:
        self._former: dict[tuple[str, int, str], tuple[Slice, float]] = {}

    def note(self, before: Workload | None, after: Workload, now_s: float) -> bool:
        """Whether something lingers on from this change."""
        was = {piece.index: piece for piece in before.slices} if before is not None else {}
        found = False
        for piece in after.slices:
            former = was.get(piece.index)
            if former is None or former.node != piece.node or not (_is_ready(former) and _is_ready(piece)):
                continue
            address = former.endpoints["grpc"]
            if address != piece.endpoints["grpc"]:
                self._former[after.name, piece.index, address] = former, now_s + LINGERS_S
                found = True
        return found

    def now(self, workloads: Mapping[str, Workload], now_s: float) -> Mapping[str, Sequence[Slice]]:
        """By workload: the slices of before that still answer, as long as their successors are ready."""
        self._former = {key: each for key, each in self._former.items() if each[1] > now_s}
        lingering: dict[str, list[Slice]] = {}
        for (name, index, _), (former, _) in self._former.items():
            workload = workloads.get(name)
            pieces = workload.slices if workload is not None else ()
            if any(piece.index == index and _is_ready(piece) for piece in pieces):
                lingering.setdefault(name, []).append(former)
        return lingering


def _is_ready(piece: Slice) -> bool:
    return piece.state == Slice.READY and "grpc" in piece.endpoints
