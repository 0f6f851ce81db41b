"""A rank's journal: numbered, sent again after a break, answered, and full at some point."""

import asyncio

import pytest

from lepton.internal.v1 import run_report_pb2 as pb
from services.agent.journal import Journal, Refusal


def journal(most_bytes: int = 1 << 20) -> Journal:
    return Journal("projects/acme/jobs/j", 1, 0, wake=lambda: None, most_bytes=most_bytes)


def line(text: str = "x") -> pb.RunEvent:
    return pb.RunEvent(output=pb.OutputLine(text=text))


def sequences(requests: list[pb.ReportRunRequest]) -> list[int]:
    return [event.sequence for request in requests for event in request.events]


async def test_events_go_out_once_per_stream_and_again_after_a_break() -> None:
    events = journal()
    for _ in range(3):
        await events.add(line())
    assert sequences(list(events.batches())) == [1, 2, 3]
    assert sequences(list(events.batches())) == []
    await events.acknowledge(1, [])
    await events.add(line())
    assert sequences(list(events.batches())) == [4]
    events.rewind()
    assert sequences(list(events.batches())) == [2, 3, 4]
    await events.acknowledge(4, [])
    assert events.is_empty
    await events.drained()


async def test_batches_are_bounded() -> None:
    events = journal(most_bytes=8 << 20)
    for _ in range(600):
        await events.add(line("x" * 2000))
    requests = list(events.batches())
    assert sequences(requests) == list(range(1, 601))
    assert all(request.ByteSize() < 1 << 20 for request in requests)


async def test_a_full_journal_makes_its_writer_wait_until_something_is_stored() -> None:
    events = journal(most_bytes=1000)
    await events.add(line("x" * 2000))
    waiting = asyncio.ensure_future(events.add(line()))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    list(events.batches())
    await events.acknowledge(1, [])
    await asyncio.wait_for(waiting, 10)
    assert sequences(list(events.batches())) == [2]


async def test_commits_are_answered_by_what_became_of_them() -> None:
    events = journal()
    good = await events.submit(pb.RunEvent(checkpoint=pb.CheckpointWritten(step=1)))
    bad = await events.submit(pb.RunEvent(checkpoint=pb.CheckpointWritten(step=2)))
    await events.acknowledge(2, [pb.RefusedEvent(sequence=2, reason="GENERATION_STALE", message="superseded")])
    assert await good is None
    assert await bad == Refusal(reason="GENERATION_STALE", message="superseded")
