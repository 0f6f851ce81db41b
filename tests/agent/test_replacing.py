"""Which ranks an agent starts again by itself."""

import pytest

from lepton.scheduler.v1 import workload_pb2
from services.agent.replacing import replacing
from services.agent.runner import Ending

SERVER = '{"data": "PARAMETER_SERVER", "servers": 2}'
KILLED = Ending(state=workload_pb2.Slice.FAILED, exit_code=-9)


def test_a_worker_that_is_killed_is_replaced_a_few_times() -> None:
    replaces = replacing(SERVER, 2, at_most=2)
    assert [replaces(KILLED) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("plan", "rank", "ending"),
    [
        (SERVER, 1, KILLED),  # a server
        ("", 2, KILLED),  # a rank that the others wait for
        ('{"data": "FSDP"}', 2, KILLED),
        ("{", 2, KILLED),
        (SERVER, 2, Ending(state=workload_pb2.Slice.FAILED, exit_code=1)),  # it would fail again
        (SERVER, 2, Ending(state=workload_pb2.Slice.STOPPED, exit_code=-15)),  # it was asked to
        (SERVER, 2, Ending(state=workload_pb2.Slice.SUCCEEDED)),
    ],
)
def test_nobody_else_is(plan: str, rank: int, ending: Ending) -> None:
    assert not replacing(plan, rank)(ending)
