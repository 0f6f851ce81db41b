"""What every KV must do: subclass KVContract, give it a `kv` fixture, and the suite runs against that store."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol
from uuid import uuid4

import pytest

from chassis.kv import (
    KV,
    Compacted,
    Delete,
    DeletePrefix,
    Event,
    Get,
    LeaseNotFound,
    OpResult,
    Put,
    WatchBatch,
    absent,
    created,
    follow,
    list_all,
    mod,
    present,
)
from chassis.kv_limits import MAX_TXN_BYTES
from tests.harness.wait import until

DEADLINE_S = 15


class CompactableKV(KV, Protocol):
    """A KV whose history the test can cut."""

    async def compact(self, revision: int) -> None:
        """Forget history before the revision."""
        ...


async def take(batches: AsyncIterator[WatchBatch], count: int) -> list[Event]:
    """The next events, at least `count` of them."""
    events: list[Event] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(events) < count:
            events += (await anext(batches)).events
    return events


def changes(events: list[Event]) -> list[tuple[str, bytes | None]]:
    """Keys and new values, in order."""
    return [(event.key, event.entry.value if event.entry else None) for event in events]


async def counted(kv: KV, key: str) -> None:
    """Add one to a number under concurrency, by compare-and-set."""
    while True:
        entry = await kv.get(key)
        value, revision = (int(entry.value), entry.mod_revision) if entry else (0, 0)
        if (await kv.txn([mod(key, revision)], [Put(key, b"%d" % (value + 1))])).succeeded:
            return


class KVContract:
    """The suite."""

    @pytest.fixture
    def prefix(self) -> str:
        """Keys of this test's own."""
        return f"/contract/{uuid4().hex}/"

    async def test_a_missing_key_is_none(self, kv: CompactableKV, prefix: str) -> None:
        assert await kv.get(prefix + "nothing") is None

    async def test_an_entry_tells_its_revisions_and_version(self, kv: CompactableKV, prefix: str) -> None:
        first = await kv.put(prefix + "a", b"1")
        second = await kv.put(prefix + "a", b"2")
        entry = await kv.get(prefix + "a")
        assert entry is not None
        assert (entry.key, entry.value, entry.version, entry.lease) == (prefix + "a", b"2", 2, 0)
        assert (entry.create_revision, entry.mod_revision) == (first, second)
        assert second == first + 1

    async def test_a_key_created_again_starts_from_version_one(self, kv: CompactableKV, prefix: str) -> None:
        await kv.put(prefix + "a", b"1")
        await kv.txn([], [Delete(prefix + "a")])
        again = await kv.put(prefix + "a", b"2")
        entry = await kv.get(prefix + "a")
        assert entry is not None
        assert (entry.version, entry.create_revision) == (1, again)

    async def test_conditions_hold_exactly_when_they_say(self, kv: CompactableKV, prefix: str) -> None:
        old = await kv.put(prefix + "a", b"1")
        new = await kv.put(prefix + "a", b"2")
        table = [
            (absent(prefix + "a"), False),
            (absent(prefix + "b"), True),
            (present(prefix + "a"), True),
            (present(prefix + "b"), False),
            (mod(prefix + "a", new), True),
            (mod(prefix + "a", old), False),
            (mod(prefix + "b", 0), True),
            (created(prefix + "a", old), True),
            (created(prefix + "a", new), False),
        ]
        for condition, holds in table:
            assert (await kv.txn([condition], [])).succeeded is holds, condition
        assert not (await kv.txn([condition for condition, _ in table], [])).succeeded

    async def test_one_branch_is_carried_out_and_answered(self, kv: CompactableKV, prefix: str) -> None:
        await kv.put(prefix + "a", b"1")
        await kv.put(prefix + "d/1", b"")
        await kv.put(prefix + "d/2", b"")
        won = await kv.txn(
            [present(prefix + "a")],
            [
                Get(prefix + "a"),
                Put(prefix + "b", b"2"),
                Get(prefix + "b"),
                DeletePrefix(prefix + "d/"),
                Delete(prefix + "x"),
            ],
            [Put(prefix + "c", b"3")],
        )
        assert won.succeeded
        assert [response.deleted for response in won.responses] == [0, 0, 0, 2, 0]
        before, after = won.responses[0].entry, won.responses[2].entry
        assert before is not None
        assert after is not None
        assert (before.value, after.value, after.mod_revision) == (b"1", b"2", won.revision)
        lost = await kv.txn([absent(prefix + "a")], [Put(prefix + "c", b"3")], [Get(prefix + "c")])
        assert not lost.succeeded
        assert lost.responses == (OpResult(entry=None),)

    async def test_what_changes_nothing_costs_no_revision(self, kv: CompactableKV, prefix: str) -> None:
        revision = await kv.put(prefix + "a", b"1")
        assert (await kv.txn([absent(prefix + "a")], [Put(prefix + "a", b"2")])).revision == revision
        assert (
            await kv.txn([], [Delete(prefix + "b"), DeletePrefix(prefix + "c"), Get(prefix + "a")])
        ).revision == revision
        both = await kv.txn([], [Put(prefix + "b", b"1"), Put(prefix + "c", b"1")])
        assert both.revision == revision + 1

    async def test_transactions_of_the_wrong_size_are_refused_before_sending(
        self, kv: CompactableKV, prefix: str
    ) -> None:
        puts = [Put(f"{prefix}{number:03}", b"") for number in range(129)]
        with pytest.raises(ValueError, match="at most 128"):
            await kv.txn([], puts)
        with pytest.raises(ValueError, match="at most 128"):
            await kv.txn([absent(put.key) for put in puts], [])
        with pytest.raises(ValueError, match="bytes"):
            await kv.txn([], [Put(prefix + "a", bytes(MAX_TXN_BYTES))])
        with pytest.raises(ValueError, match="bytes"):
            await kv.put(prefix + "a", bytes(MAX_TXN_BYTES))
        with pytest.raises(ValueError, match="twice"):
            await kv.txn([], [Put(prefix + "a", b"1"), Put(prefix + "a", b"2")])
        with pytest.raises(ValueError, match="puts and deletes"):
            await kv.txn([], [Put(prefix + "a", b"1"), DeletePrefix(prefix)])
        assert (await kv.list(prefix)).entries == ()

    async def test_transactions_at_the_limits_are_accepted(self, kv: CompactableKV, prefix: str) -> None:
        puts = [Put(f"{prefix}{number:03}", bytes(MAX_TXN_BYTES // 128 - 200)) for number in range(128)]
        assert (await kv.txn([absent(put.key) for put in puts], puts)).succeeded
        assert len((await kv.list(prefix)).entries) == 128

    async def test_a_list_is_ordered_and_keeps_to_its_prefix(self, kv: CompactableKV, prefix: str) -> None:
        for key in ("a/2", "a/1", "a", "b", "a/1/x", "aa"):
            await kv.put(prefix + key, key.encode())
        page = await kv.list(prefix + "a/")
        assert [entry.key for entry in page.entries] == [prefix + "a/1", prefix + "a/1/x", prefix + "a/2"]
        assert not page.more

    async def test_pages_show_one_revision_whatever_is_written_between(self, kv: CompactableKV, prefix: str) -> None:
        for number in range(5):
            await kv.put(f"{prefix}{number}", b"old")
        first = await kv.list(prefix, limit=2)
        assert first.more
        await kv.txn([], [Delete(prefix + "2"), Put(prefix + "3", b"new"), Put(prefix + "9", b"new")])
        rest = await kv.list(prefix, start_after=first.entries[-1].key, revision=first.revision)
        assert not rest.more
        assert rest.revision == first.revision
        assert [entry.key[-1] + entry.value.decode() for entry in rest.entries] == ["2old", "3old", "4old"]
        whole = await list_all(kv, prefix, page_size=2)
        assert [entry.key[-1] for entry in whole.entries] == ["0", "1", "3", "4", "9"]
        exact = await kv.list(prefix, limit=5)
        assert not exact.more

    async def test_reading_what_is_compacted_or_to_come_is_an_error(self, kv: CompactableKV, prefix: str) -> None:
        old = await kv.put(prefix + "a", b"1")
        new = await kv.put(prefix + "a", b"2")
        await kv.compact(new)
        with pytest.raises(Compacted):
            await kv.list(prefix, revision=old)
        assert [entry.value for entry in (await kv.list(prefix, revision=new)).entries] == [b"2"]
        with pytest.raises(ValueError, match="future"):
            await kv.list(prefix, revision=new + 1000)

    async def test_a_watch_replays_history_then_goes_on(self, kv: CompactableKV, prefix: str) -> None:
        start = await kv.put(prefix + "a", b"1")
        await kv.put(prefix[:-1] + "-not-mine", b"")
        both = await kv.txn([], [Put(prefix + "b", b"2"), Put(prefix + "c", b"3")])
        gone = await kv.txn([], [Delete(prefix + "a")])
        async with aclosing(kv.watch(prefix, start_revision=start)) as batches:
            events = await take(batches, 4)
            assert changes(events) == [
                (prefix + "a", b"1"),
                (prefix + "b", b"2"),
                (prefix + "c", b"3"),
                (prefix + "a", None),
            ]
            assert [event.revision for event in events] == [start, both.revision, both.revision, gone.revision]
            later = await kv.put(prefix + "d", b"4")
            assert [(event.key, event.revision) for event in await take(batches, 1)] == [(prefix + "d", later)]

    async def test_a_revision_comes_whole(self, kv: CompactableKV, prefix: str) -> None:
        start = await kv.put(prefix + "a", b"1")
        async with aclosing(kv.watch(prefix, start_revision=start + 1)) as batches:
            for size in (3, 100):
                puts = [Put(f"{prefix}{number:03}", bytes(10_000)) for number in range(size)]
                result = await kv.txn([], puts)
                async with asyncio.timeout(DEADLINE_S):
                    batch = await anext(batches)
                assert len(batch.events) == size
                assert batch.revision == result.revision

    async def test_a_watch_from_now_begins_when_it_is_first_waited_for(self, kv: CompactableKV, prefix: str) -> None:
        await kv.put(prefix + "a", b"old")
        async with aclosing(kv.watch(prefix)) as batches, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(take(batches, 1))
            while not watching.done():  # it cannot be seen from here when etcd has begun to watch
                await kv.put(prefix + "a", b"new")
        assert set(changes(watching.result())) == {(prefix + "a", b"new")}

    async def test_a_watch_into_compacted_history_says_so(self, kv: CompactableKV, prefix: str) -> None:
        start = await kv.put(prefix + "a", b"1")
        for _ in range(3):
            last = await kv.put(prefix + "a", b"2")
        await kv.compact(last)
        async with aclosing(kv.watch(prefix, start_revision=start)) as batches:
            with pytest.raises(Compacted) as raised:
                await take(batches, 1)
        assert raised.value.compact_revision == last

    async def test_a_deletion_at_the_compacted_revision_is_not_passed_over(
        self, kv: CompactableKV, prefix: str
    ) -> None:
        await kv.put(prefix + "a", b"1")
        gone = (await kv.txn([], [Delete(prefix + "a")])).revision
        await kv.compact(gone)
        async with aclosing(kv.watch(prefix, start_revision=gone)) as batches:
            with pytest.raises(Compacted):
                await take(batches, 1)

    async def test_following_gives_the_state_then_the_changes(self, kv: CompactableKV, prefix: str) -> None:
        async with aclosing(follow(kv, prefix + "none/")) as batches:
            assert (await anext(batches)).events == ()
        await kv.put(prefix + "a", b"1")
        await kv.put(prefix + "b", b"1")
        async with aclosing(follow(kv, prefix)) as batches:
            snapshot = await anext(batches)
            assert changes(list(snapshot.events)) == [(prefix + "a", b"1"), (prefix + "b", b"1")]
            await kv.txn([], [Put(prefix + "a", b"2"), Delete(prefix + "b")])
            assert sorted(changes(await take(batches, 2))) == [(prefix + "a", b"2"), (prefix + "b", None)]

    async def test_a_follower_overtaken_by_compaction_misses_no_deletion(self, kv: CompactableKV, prefix: str) -> None:
        for key in "abc":
            await kv.put(prefix + key, b"1")
        async with aclosing(follow(kv, prefix)) as batches:
            replica = await self._replica(batches, {}, len("abc"))
            await kv.txn([], [Delete(prefix + "a"), Put(prefix + "b", b"2")])
            last = await kv.put(prefix + "d", b"1")
            await kv.compact(last)
            replica = await self._replica(batches, replica, 3)
        assert replica == {prefix + "b": b"2", prefix + "c": b"1", prefix + "d": b"1"}

    async def _replica(
        self, batches: AsyncGenerator[WatchBatch, None], replica: dict[str, bytes], count: int
    ) -> dict[str, bytes]:
        for event in await take(batches, count):
            if event.entry is None:
                del replica[event.key]  # a deletion comes once
            else:
                replica[event.key] = event.entry.value
        return replica

    async def test_keys_end_with_their_lease(self, kv: CompactableKV, prefix: str) -> None:
        async with await kv.grant(30) as lease:
            revision = await kv.put(prefix + "a", b"1", lease=lease.id)
            await kv.txn([], [Put(prefix + "b", b"1", lease.id), Put(prefix + "c", b"1", lease.id)])
            await kv.put(prefix + "c", b"2")  # a put without the lease takes the key out of it
            entry = await kv.get(prefix + "a")
            assert entry is not None
            assert entry.lease == lease.id
            assert not lease.lost.is_set()
        assert lease.lost.is_set()
        async with aclosing(kv.watch(prefix, start_revision=revision + 3)) as batches:
            events = await take(batches, 2)
        assert sorted(changes(events)) == [(prefix + "a", None), (prefix + "b", None)]
        assert len({event.revision for event in events}) == 1
        await lease.revoke()

    async def test_a_lease_that_nobody_renews_runs_out(self, kv: CompactableKV, prefix: str) -> None:
        lease = await kv.grant(1, keep_alive=False)
        revision = await kv.put(prefix + "a", b"1", lease=lease.id)
        async with aclosing(kv.watch(prefix, start_revision=revision + 1)) as batches:
            assert changes(await take(batches, 1)) == [(prefix + "a", None)]
        assert lease.lost.is_set()

    async def test_a_lease_is_renewed_past_its_ttl(self, kv: CompactableKV, prefix: str) -> None:
        async with await kv.grant(1) as lease:
            await kv.put(prefix + "a", b"1", lease=lease.id)
            granted_at = lease.renewed_at
            await until(lambda: lease.renewed_at >= granted_at + 2 * lease.ttl_s)
            assert not lease.lost.is_set()
            assert await kv.get(prefix + "a") is not None

    async def test_a_lease_that_has_ended_takes_no_key(self, kv: CompactableKV, prefix: str) -> None:
        lease = await kv.grant(30)
        await lease.revoke()
        with pytest.raises(LeaseNotFound):
            await kv.put(prefix + "a", b"1", lease=lease.id)
        with pytest.raises(LeaseNotFound):
            await kv.txn([], [Put(prefix + "b", b"1"), Put(prefix + "a", b"1", lease.id)])
        assert (await kv.list(prefix)).entries == ()

    async def test_compare_and_set_loses_no_update(self, kv: CompactableKV, prefix: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(40):
                tasks.create_task(counted(kv, prefix + "n"))
        entry = await kv.get(prefix + "n")
        assert entry is not None
        assert entry.value == b"40"
        assert entry.version == 40
