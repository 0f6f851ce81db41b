"""Watches: everything that is, then every change, from wherever a client stands."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from chassis import kv as store
from chassis.etcd import EtcdKV
from chassis.kv import Delete, Put, WatchBatch
from chassis.watching import changes
from lepton.errors import OutOfRange
from tests.harness.memory_kv import MemoryKV

PREFIX = "/watched/"


async def take(batches: AsyncGenerator[WatchBatch, None], count: int) -> list[WatchBatch]:
    async with asyncio.timeout(10):
        return [await anext(batches) for _ in range(count)]


def shown(batch: WatchBatch) -> dict[str, bytes | None]:
    return {
        event.key.removeprefix(PREFIX): None if event.entry is None else event.entry.value for event in batch.events
    }


async def test_an_empty_prefix_begins_with_its_bookmark() -> None:
    kv = MemoryKV()
    async with aclosing(changes(kv, PREFIX, 0)) as batches:
        [bookmark] = await take(batches, 1)
        assert (bookmark.events, bookmark.revision) == ((), 1)
        await kv.put(f"{PREFIX}a", b"1")
        assert shown((await take(batches, 1))[0]) == {"a": b"1"}


async def test_what_is_comes_first_and_a_bookmark_ends_it() -> None:
    kv = MemoryKV()
    for key in ("b", "a"):
        await kv.put(f"{PREFIX}{key}", key.encode())
    await kv.put("/elsewhere", b"")
    async with aclosing(changes(kv, PREFIX, 0)) as batches:
        initial, bookmark = await take(batches, 2)
    assert list(shown(initial)) == ["a", "b"]
    assert (bookmark.events, bookmark.revision) == ((), 4)


async def test_from_a_bookmark_every_change_comes_once_also_deletions_and_whole_transactions() -> None:
    kv = MemoryKV()
    await kv.put(f"{PREFIX}a", b"1")
    async with aclosing(changes(kv, PREFIX, 0)) as batches:
        _, bookmark = await take(batches, 2)
    await kv.txn([], [Put(f"{PREFIX}b", b"2"), Put(f"{PREFIX}c", b"3"), Delete(f"{PREFIX}a")])
    await kv.put(f"{PREFIX}b", b"4")
    seen: list[Any] = []
    async with aclosing(changes(kv, PREFIX, bookmark.revision)) as batches, asyncio.timeout(5):
        while len(seen) < 4:
            seen += [(event.key, event.entry.value if event.entry else None) for event in (await anext(batches)).events]
    assert sorted(seen[:3], key=str) == [(f"{PREFIX}a", None), (f"{PREFIX}b", b"2"), (f"{PREFIX}c", b"3")]
    assert seen[3] == (f"{PREFIX}b", b"4")


async def test_nothing_is_lost_between_the_state_and_the_changes() -> None:
    kv = MemoryKV()
    await kv.put(f"{PREFIX}a", b"1")
    async with aclosing(changes(kv, PREFIX, 0)) as batches:
        await take(batches, 1)
        await kv.put(f"{PREFIX}a", b"2")  # after the read, before the watch
        _, change = await take(batches, 2)
    assert shown(change) == {"a": b"2"}


async def test_lost_history_is_told_with_the_revision_that_was_asked_for() -> None:
    kv = MemoryKV()
    for number in range(5):
        await kv.put(f"{PREFIX}a", str(number).encode())
    await kv.compact(5)
    with pytest.raises(OutOfRange) as caught:
        await take(changes(kv, PREFIX, 2), 1)
    assert (caught.value.reason, caught.value.metadata["revision"]) == ("REVISION_COMPACTED", "2")


async def test_a_state_of_many_pages_that_history_overtakes_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kv = MemoryKV()
    for number in range(3):
        await kv.put(f"{PREFIX}{number}", b"")
    reads = 0
    read = kv.list

    async def overtaken(prefix: str, **options: Any) -> store.Page:
        nonlocal reads
        reads += 1
        page = await read(prefix, **{**options, "limit": 2})
        if reads == 1:
            await kv.put("/elsewhere", b"")
            await kv.put("/elsewhere", b"")
            await kv.compact(page.revision + 1)
        return page

    monkeypatch.setattr(kv, "list", overtaken)
    initial, _ = await take(changes(kv, PREFIX, 0), 2)
    assert list(shown(initial)) == ["0", "1", "2"]


@pytest.mark.integration
async def test_it_is_so_with_etcd_too(etcd_kv: EtcdKV) -> None:
    prefix = "/test-watching/"
    first = await etcd_kv.put(f"{prefix}a", b"1")
    async with aclosing(changes(etcd_kv, prefix, 0)) as batches:
        initial, bookmark = await take(batches, 2)
        assert [event.key for event in initial.events] == [f"{prefix}a"]
        assert bookmark.revision >= first
        await etcd_kv.txn([], [Put(f"{prefix}b", b"2"), Delete(f"{prefix}a")])
        seen: dict[str, Any] = {}
        while len(seen) < 2:
            [batch] = await take(batches, 1)
            seen |= {event.key: event.entry for event in batch.events}
    assert seen[f"{prefix}a"] is None
