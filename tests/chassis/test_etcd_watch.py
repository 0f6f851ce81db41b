"""A watch delivers each change once, whatever the stream does to it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager

import grpc
import pytest
from grpc import aio

from chassis.etcd import EtcdKV
from chassis.etcd.watch import Cursor
from chassis.etcdpb import kv_pb2, rpc_pb2, rpc_pb2_grpc
from chassis.kv import Event, Refused, WatchBatch


def put(key: str, revision: int) -> kv_pb2.Event:
    pair = kv_pb2.KeyValue(key=key.encode(), mod_revision=revision, create_revision=revision, version=1, value=b"v")
    return kv_pb2.Event(type=kv_pb2.Event.PUT, kv=pair)


def reply(*events: kv_pb2.Event, header: int = 100, fragment: bool = False) -> rpc_pb2.WatchResponse:
    return rpc_pb2.WatchResponse(header=rpc_pb2.ResponseHeader(revision=header), events=events, fragment=fragment)


def cancelled(reason: str) -> rpc_pb2.WatchResponse:
    return rpc_pb2.WatchResponse(canceled=True, cancel_reason=reason)


class ScriptedWatch(rpc_pb2_grpc.WatchServicer):
    """Answers each new stream with the next list of replies, then breaks it; the last one stays open."""

    def __init__(self, script: Sequence[Sequence[rpc_pb2.WatchResponse]]) -> None:
        self._script: Iterator[Sequence[rpc_pb2.WatchResponse]] = iter(script)
        self.asked: list[int] = []

    async def Watch(
        self,
        request_iterator: AsyncIterator[rpc_pb2.WatchRequest],
        context: grpc.aio.ServicerContext[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse],
    ) -> AsyncIterator[rpc_pb2.WatchResponse]:
        create = (await anext(aiter(request_iterator))).create_request
        self.asked.append(create.start_revision)
        assert create.progress_notify
        yield rpc_pb2.WatchResponse(created=True, header=rpc_pb2.ResponseHeader(revision=40))
        replies = next(self._script, None)
        if replies is None:
            await asyncio.Event().wait()
        for scripted in replies or ():
            yield scripted
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the script breaks the stream here")


@asynccontextmanager
async def scripted(*script: Sequence[rpc_pb2.WatchResponse]) -> AsyncIterator[tuple[EtcdKV, ScriptedWatch]]:
    server = aio.server()
    watch = ScriptedWatch(script)
    rpc_pb2_grpc.add_WatchServicer_to_server(watch, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with EtcdKV([f"127.0.0.1:{port}"]) as kv:
        yield kv, watch
    await server.stop(None)


async def delivered(kv: EtcdKV, count: int, start_revision: int = 0) -> list[WatchBatch]:
    async with asyncio.timeout(10), aclosing(kv.watch("/", start_revision=start_revision)) as batches:
        return [await anext(batches) for _ in range(count)]


def told(batches: Sequence[WatchBatch]) -> list[list[tuple[str, int]]]:
    return [[(event.key, event.revision) for event in batch.events] for batch in batches]


async def test_fragments_of_one_reply_come_together() -> None:
    fragments = [reply(put("/a", 50), fragment=True), reply(put("/b", 50), fragment=True), reply(put("/c", 50))]
    async with scripted(fragments) as (kv, _):
        assert told(await delivered(kv, 1)) == [[("/a", 50), ("/b", 50), ("/c", 50)]]


async def test_fragments_cut_off_by_a_break_are_asked_for_again() -> None:
    first = [reply(put("/a", 49)), reply(put("/a", 50), fragment=True)]
    second = [reply(put("/a", 49), put("/a", 50), put("/b", 50))]
    async with scripted(first, second) as (kv, watch):
        assert told(await delivered(kv, 2)) == [[("/a", 49)], [("/a", 50), ("/b", 50)]]
        assert watch.asked == [0, 49]


async def test_what_comes_twice_or_late_is_dropped() -> None:
    first = [reply(put("/a", 50)), reply(put("/a", 50)), reply(put("/a", 49), put("/b", 51)), reply(put("/z", 12))]
    second = [reply(put("/b", 51), put("/c", 52))]
    async with scripted(first, second) as (kv, watch):
        assert told(await delivered(kv, 3)) == [[("/a", 50)], [("/b", 51)], [("/c", 52)]]
        assert watch.asked == [0, 51]


async def test_a_revision_split_without_notice_loses_nothing() -> None:
    async with scripted([reply(put("/a", 50)), reply(put("/a", 50), put("/b", 50))]) as (kv, _):
        assert told(await delivered(kv, 2)) == [[("/a", 50)], [("/b", 50)]]


async def test_the_header_of_a_watch_that_catches_up_is_not_taken_for_its_position() -> None:
    async with scripted([reply(put("/a", 50), header=9000)], [reply(put("/a", 50), put("/b", 51))]) as (kv, watch):
        assert told(await delivered(kv, 2, start_revision=45)) == [[("/a", 50)], [("/b", 51)]]
        assert watch.asked == [44, 50]


async def test_a_progress_notification_moves_the_position_and_is_a_bookmark() -> None:
    async with scripted([reply(header=70)], [reply(put("/a", 70), put("/b", 71))]) as (kv, watch):
        bookmark, batch = await delivered(kv, 2, start_revision=45)
        assert (bookmark.events, bookmark.revision) == ((), 70)
        assert told([batch]) == [[("/b", 71)]]
        assert watch.asked == [44, 70]


async def test_a_watch_from_now_that_breaks_before_any_event_misses_nothing() -> None:
    async with scripted([], [reply(put("/old", 40), put("/a", 41))]) as (kv, watch):
        assert told(await delivered(kv, 1)) == [[("/a", 41)]]
        assert watch.asked == [0, 40]


async def test_a_cancelled_watch_is_made_again() -> None:
    async with scripted([reply(put("/a", 50)), cancelled("the member is leaving")], [reply(put("/b", 51))]) as (kv, _):
        assert told(await delivered(kv, 2)) == [[("/a", 50)], [("/b", 51)]]


async def test_a_forbidden_watch_is_refused() -> None:
    async with scripted([cancelled("etcdserver: permission denied")]) as (kv, _):
        with pytest.raises(Refused, match="permission denied"):
            await delivered(kv, 1)


def test_a_cursor_at_the_beginning_asks_for_the_beginning() -> None:
    assert Cursor(0).resume_revision == 0
    assert Cursor(1).resume_revision == 1
    assert Cursor(2).resume_revision == 1
    cursor = Cursor(5)
    cursor.accept([Event(key="/a", entry=None, revision=9)])
    assert cursor.resume_revision == 9
