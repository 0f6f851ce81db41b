"""Reports on their way: the newest of each slice, until it is stored."""

import asyncio

import pytest

from lepton.internal.v1 import node_session_pb2 as pb
from lepton.scheduler.v1 import workload_pb2
from services.agent.order import SliceKey
from services.agent.outbox import Outbox

Slice = workload_pb2.Slice
KEY = SliceKey(workload_uid="u", generation=1, index=0)


def report(state: Slice.State.ValueType) -> pb.SliceReport:
    return pb.SliceReport(workload="projects/a/workloads/w", generation=1, slice=Slice(state=state))


def test_only_the_newest_report_goes_out_and_only_once_per_stream() -> None:
    outbox = Outbox()
    outbox.put(KEY, report(Slice.STARTING))
    outbox.put(KEY, report(Slice.RUNNING))
    assert [each.slice.state for each in outbox.take()] == [Slice.RUNNING]
    assert outbox.take() == []
    assert [each.slice.state for each in outbox.take_all().values()] == [Slice.RUNNING]
    outbox.resend()
    assert len(outbox.take()) == 1


async def test_a_report_is_kept_until_exactly_its_state_is_stored() -> None:
    outbox = Outbox()
    outbox.put(KEY, report(Slice.RUNNING))
    outbox.take()
    outbox.put(KEY, report(Slice.SUCCEEDED))
    outbox.acknowledge(KEY, Slice.RUNNING)
    assert [each.slice.state for each in outbox.take()] == [Slice.SUCCEEDED]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(outbox.drained(), 0.01)
    outbox.acknowledge(KEY, Slice.SUCCEEDED)
    await outbox.drained()
    assert outbox.take_all() == {}
