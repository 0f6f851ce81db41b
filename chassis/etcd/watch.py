"""Watches: one stream each, resumed after every break, so that each change arrives exactly once and in order."""

import asyncio
import math
from collections.abc import AsyncGenerator
from typing import Final

from grpc import aio

from chassis.clock import Clock
from chassis.etcd.members import REQUIRE_LEADER, Member, Members, is_broken, raise_failure
from chassis.etcd.wire import event_from_wire, prefix_end
from chassis.etcdpb import rpc_pb2
from chassis.kv import Compacted, Event, Refused, WatchBatch
from chassis.logs import logger

_RETRY_S: Final = 0.1

log = logger(__name__)


class Cursor:
    """How far a watch has come: what it has delivered, and from where to ask again."""

    def __init__(self, start_revision: int) -> None:
        self._complete = start_revision - 1  # everything up to here is delivered or unwanted; -1: not placed yet
        self._newest = self._complete
        self._keys_at_newest: set[str] = set()

    @property
    def resume_revision(self) -> int:
        """The revision to ask for: the newest one *again*, never the one after it.

        The header's revision would not do: while a watch catches up it is ahead of the events. And etcd accepts a
        start at the very revision it compacted to, though a deletion there is gone; asking for one earlier makes it
        say so. What arrives twice is dropped.
        """
        return max(self._newest, 0) or max(self._complete + 1, 0)

    def place(self, revision: int) -> None:
        """Note that everything up to this revision is delivered; a watch "from now" starts by that."""
        if revision > self._newest:
            self._complete = self._newest = revision
            self._keys_at_newest.clear()

    @property
    def is_placed(self) -> bool:
        """Whether it is known which revision comes next."""
        return self._complete >= 0

    def accept(self, events: list[Event]) -> tuple[Event, ...]:
        """The events that were not delivered before."""
        return tuple(event for event in events if self._is_new(event))

    def _is_new(self, event: Event) -> bool:
        if event.revision <= self._complete or event.revision < self._newest:
            return False
        if event.revision > self._newest:
            self._newest = event.revision
            self._keys_at_newest.clear()
        if event.key in self._keys_at_newest:  # a revision changes a key once
            return False
        self._keys_at_newest.add(event.key)
        return True


async def watch(members: Members, clock: Clock, prefix: str, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
    """Yield every change under the prefix from the revision on (0: from now)."""
    cursor = Cursor(start_revision)
    while True:
        member = await members.connected(math.inf)
        stream = _watch_through(member, prefix, cursor)
        try:
            async for batch in stream:
                yield batch
        except aio.AioRpcError as error:
            if not is_broken(error):
                raise_failure(error)
            log.info("watch broke, resuming", prefix=prefix, reason=error.details())
        finally:
            await stream.aclose()
        members.avoid(member)
        await clock.sleep(_RETRY_S)


async def _watch_through(member: Member, prefix: str, cursor: Cursor) -> AsyncGenerator[WatchBatch, None]:
    """Yield what one stream brings until it ends."""
    stream = member.watch.Watch(metadata=REQUIRE_LEADER)
    create = rpc_pb2.WatchCreateRequest(
        key=prefix.encode(),
        range_end=prefix_end(prefix),
        start_revision=cursor.resume_revision,
        progress_notify=True,
        fragment=True,
    )
    events: list[Event] = []
    try:
        await stream.write(rpc_pb2.WatchRequest(create_request=create))
        async for response in stream:
            if response.canceled:
                _raise_cancelled(response)
                return
            if response.created:
                if not cursor.is_placed:
                    cursor.place(response.header.revision)
                continue
            events += map(event_from_wire, response.events)
            if response.fragment:
                continue
            if batch := _batch(events, response.header.revision, cursor):
                yield batch
            events = []
    except asyncio.InvalidStateError:  # grpc's word for writing to a stream that has ended
        return
    finally:
        stream.cancel()


def _batch(events: list[Event], header_revision: int, cursor: Cursor) -> WatchBatch | None:
    if not events:  # a progress notification: all up to the header's revision has been sent
        cursor.place(header_revision)
        return WatchBatch(events=(), revision=header_revision)
    fresh = cursor.accept(events)
    return WatchBatch(events=fresh, revision=fresh[-1].revision) if fresh else None


def _raise_cancelled(response: rpc_pb2.WatchResponse) -> None:
    if response.compact_revision:
        raise Compacted(response.compact_revision)
    if "permission denied" in response.cancel_reason:
        raise Refused(f"etcd: {response.cancel_reason}")
    log.warning("etcd cancelled a watch, resuming", reason=response.cancel_reason)
