"""Which servers stay in the routes beside their successors."""

from typing import Any

import pytest

from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference.lingering import LINGERS_S, Lingering

NAME = "projects/acme/workloads/w"


def workload(address: str, state: Slice.State.ValueType = Slice.READY, **changes: Any) -> Workload:
    piece = Slice(index=0, node="pools/p/nodes/n1", state=state, endpoints={"grpc": address} if address else {})
    piece.MergeFrom(Slice(**changes))
    return Workload(name=NAME, slices=[piece])


def kept(before: Workload | None, after: Workload, later_s: float = 0.0) -> list[str]:
    lingering = Lingering()
    lingering.note(before, after, 100.0)
    found = lingering.now({NAME: after}, 100.0 + later_s)
    return [piece.endpoints["grpc"] for piece in found.get(NAME, ())]


def test_a_server_with_a_successor_stays_for_a_while() -> None:
    before, after = workload("127.0.0.1:1"), workload("127.0.0.1:2")
    assert kept(before, after) == ["127.0.0.1:1"]
    assert kept(before, after, LINGERS_S + 0.1) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, workload("127.0.0.1:1")),
        (workload("127.0.0.1:1"), workload("127.0.0.1:1")),
        (workload("", Slice.STARTING), workload("127.0.0.1:2")),
        (workload("127.0.0.1:1"), workload("", Slice.STARTING)),
        (workload("127.0.0.1:1"), Workload(name=NAME)),
        (workload("127.0.0.1:1", index=3), workload("127.0.0.1:2", node="pools/p/nodes/n2", index=3)),
    ],
    ids=["new", "the same", "it had died", "it has died", "it is gone", "another node"],
)
def test_nothing_else_does(before: Workload | None, after: Workload) -> None:
    assert kept(before, after) == []


def test_what_lingers_goes_when_its_successor_does() -> None:
    lingering = Lingering()
    assert lingering.note(workload("127.0.0.1:1"), workload("127.0.0.1:2"), 100.0)
    assert lingering.now({NAME: workload("", Slice.STARTING)}, 100.5) == {}
    assert lingering.now({}, 100.5) == {}
