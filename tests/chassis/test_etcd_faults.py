"""EtcdKV through crashes, cuts and silence of a real etcd."""

import asyncio
from contextlib import aclosing
from uuid import uuid4

import pytest

from chassis.etcd import EtcdKV
from chassis.kv import Compacted, Delete, Event, OutcomeUnknown, Put, Unavailable, absent, follow
from deploy import tools
from tests.harness.etcd import EtcdCluster
from tests.harness.proxy import Proxy
from tests.harness.wait import until

pytestmark = pytest.mark.integration


async def write(kv: EtcdKV, key: str) -> None:
    """Create a key; it may be tried again after any failure, because it must not exist."""
    while True:
        try:
            await kv.txn([absent(key)], [Put(key, key.encode())])
        except (Unavailable, OutcomeUnknown):
            continue
        return


async def collect(kv: EtcdKV, prefix: str, start_revision: int, into: list[Event], count: int) -> None:
    async with aclosing(kv.watch(prefix, start_revision=start_revision)) as batches:
        async for batch in batches:
            into.extend(batch.events)
            if len(into) >= count:
                return


async def test_a_watch_goes_on_after_etcd_was_killed_and_started_again(own_etcd: EtcdCluster) -> None:
    async with EtcdKV(own_etcd.endpoints) as kv, asyncio.timeout(60):
        start = await kv.put("/start", b"")
        seen: list[Event] = []
        keys = [f"/k/{number:03}" for number in range(60)]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(collect(kv, "/k/", start, seen, len(keys)))
            for number, key in enumerate(keys):
                if number in (20, 40):
                    own_etcd.kill()
                    tasks.create_task(own_etcd.start())
                await write(kv, key)
        assert [event.key for event in seen] == keys


async def test_a_follower_cut_off_during_a_compaction_catches_up(etcd: EtcdCluster, etcd_kv: EtcdKV) -> None:
    prefix = f"/cut/{uuid4().hex}/"
    for key in "abc":
        await etcd_kv.put(prefix + key, b"1")
    async with (
        Proxy(etcd.endpoints[0]) as proxy,
        EtcdKV([proxy.endpoint]) as kv,
        asyncio.timeout(30),
        aclosing(follow(kv, prefix)) as batches,
    ):
        replica = {event.key: event.entry for event in (await anext(batches)).events}
        assert len(replica) == 3
        proxy.cut()
        await etcd_kv.txn([], [Put(prefix + "d", b"1")])
        await etcd_kv.put(prefix + "b", b"2")
        await etcd_kv.compact((await etcd_kv.txn([], [Delete(prefix + "a")])).revision)
        proxy.heal()
        events = (await anext(batches)).events
    assert {event.key[-1]: event.entry and event.entry.value for event in events} == {"a": None, "b": b"2", "d": b"1"}
    assert len(events) == 3


async def test_a_watch_cut_off_during_a_compaction_says_so(etcd: EtcdCluster, etcd_kv: EtcdKV) -> None:
    prefix = f"/cut/{uuid4().hex}/"
    start = await etcd_kv.put(prefix + "a", b"1")
    async with (
        Proxy(etcd.endpoints[0]) as proxy,
        EtcdKV([proxy.endpoint]) as kv,
        asyncio.timeout(30),
        aclosing(kv.watch(prefix, start_revision=start)) as batches,
    ):
        assert len((await anext(batches)).events) == 1
        proxy.cut()
        await etcd_kv.put(prefix + "a", b"2")
        await etcd_kv.compact(await etcd_kv.put(prefix + "a", b"3"))
        proxy.heal()
        with pytest.raises(Compacted):
            await anext(batches)


async def test_a_write_that_was_never_sent_is_unavailable_and_waits_for_etcd_first(own_etcd: EtcdCluster) -> None:
    async with EtcdKV(own_etcd.endpoints, timeout_s=0.5) as kv:
        await kv.put("/a", b"1")
        own_etcd.kill()
        with pytest.raises((Unavailable, OutcomeUnknown)):  # the first one may still be sent into the dying connection
            await kv.put("/a", b"2")
        with pytest.raises(Unavailable, match="no connection"):
            await kv.put("/a", b"3")
        with pytest.raises(Unavailable):
            await kv.get("/a")
    async with EtcdKV(own_etcd.endpoints, timeout_s=20) as kv, asyncio.TaskGroup() as tasks:
        tasks.create_task(own_etcd.start())
        await kv.put("/a", b"4")


@pytest.mark.parametrize("fault", ["silence", "reset"])
async def test_a_write_without_an_answer_has_an_unknown_outcome(fault: str, etcd: EtcdCluster, etcd_kv: EtcdKV) -> None:
    key = f"/unknown/{uuid4().hex}"
    async with Proxy(etcd.endpoints[0]) as proxy, EtcdKV([proxy.endpoint], timeout_s=1) as kv:
        await kv.get(key)
        proxy.withhold_answers()
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(outcome(kv, key))
            await until(lambda: etcd_kv.get(key))  # it was applied all the same
            if fault == "reset":
                proxy.cut()
        assert isinstance(writing.result(), OutcomeUnknown)
        entry = await etcd_kv.get(key)
        assert entry is not None
        assert entry.version == 1  # and not repeated


async def outcome(kv: EtcdKV, key: str) -> Exception | int:
    try:
        return await kv.put(key, b"1")
    except (Unavailable, OutcomeUnknown) as error:
        return error


async def test_reads_are_repeated_until_they_are_answered(etcd: EtcdCluster) -> None:
    async with Proxy(etcd.endpoints[0]) as proxy, EtcdKV([proxy.endpoint]) as kv:
        await kv.get("/a")
        proxy.cut()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(kv.get("/nothing"))
            await asyncio.sleep(0)
            proxy.heal()
        assert reading.result() is None


async def test_a_lease_that_cannot_be_renewed_is_lost_within_its_ttl(etcd: EtcdCluster, etcd_kv: EtcdKV) -> None:
    key = f"/lease/{uuid4().hex}"
    async with Proxy(etcd.endpoints[0]) as proxy, EtcdKV([proxy.endpoint]) as kv, asyncio.timeout(20):
        lease = await kv.grant(2)
        await kv.put(key, b"1", lease=lease.id)
        proxy.withhold_answers()  # the renewals arrive, so etcd keeps it: we must not count on that
        await lease.lost.wait()
        assert kv.clock.monotonic() - lease.renewed_at == pytest.approx(lease.ttl_s, abs=0.5)
        assert await etcd_kv.get(key) is not None
        await until(lambda: is_gone(etcd_kv, key), 15)


async def is_gone(kv: EtcdKV, key: str) -> bool:
    return await kv.get(key) is None


async def test_a_lease_outlives_a_cut_shorter_than_its_ttl(etcd: EtcdCluster) -> None:
    async with Proxy(etcd.endpoints[0]) as proxy, EtcdKV([proxy.endpoint]) as kv, await kv.grant(3) as lease:
        proxy.cut()
        cut_at = kv.clock.monotonic()
        await until(lambda: kv.clock.monotonic() > cut_at + 1.5)
        proxy.heal()
        await until(lambda: lease.renewed_at > cut_at + 3)
        assert not lease.lost.is_set()


async def test_a_lease_revoked_by_someone_else_is_lost_at_the_next_renewal(etcd: EtcdCluster, etcd_kv: EtcdKV) -> None:
    async with EtcdKV(etcd.endpoints) as kv, asyncio.timeout(10):
        lease = await kv.grant(3)
        process = await asyncio.create_subprocess_exec(
            tools.etcdctl(),
            f"--endpoints={etcd.endpoints[0]}",
            "lease",
            "revoke",
            f"{lease.id:x}",
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
        )
        assert await process.wait() == 0
        await lease.lost.wait()
        assert kv.clock.monotonic() - lease.renewed_at < 3


async def test_all_leases_of_a_client_share_one_stream(etcd: EtcdCluster) -> None:
    before = await streams_opened(etcd)
    async with EtcdKV(etcd.endpoints) as kv:
        leases = [await kv.grant(1) for _ in range(30)]
        granted_at = kv.clock.monotonic()
        await until(lambda: all(lease.renewed_at > granted_at + 1 for lease in leases))
        assert not any(lease.lost.is_set() for lease in leases)
    assert await streams_opened(etcd) == before + 1


async def streams_opened(etcd: EtcdCluster) -> int:
    name = 'grpc_server_started_total{grpc_method="LeaseKeepAlive"'
    lines = (await etcd.members[0].page("/metrics")).splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name))
