"""EtcdKV with several endpoints: members die, stop and lose their leader."""

import asyncio
import signal
import time
from contextlib import aclosing

import pytest

from chassis.etcd import EtcdKV
from chassis.kv import Event
from tests.chassis.test_etcd_faults import collect, write
from tests.harness.etcd import EtcdCluster
from tests.harness.ports import free_ports

pytestmark = pytest.mark.integration


async def test_the_leader_is_killed_and_nothing_is_lost(etcd_trio: EtcdCluster) -> None:
    async with EtcdKV(etcd_trio.endpoints) as kv, asyncio.timeout(60):
        start = await kv.put("/start", b"")
        keys = [f"/k/{number:03}" for number in range(90)]
        seen: list[Event] = []
        lease = await kv.grant(10)
        stalls: list[float] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(collect(kv, "/k/", start, seen, len(keys)))
            killed = None
            for number, key in enumerate(keys):
                if number in (30, 60):
                    if killed is not None:
                        await etcd_trio.restart(killed)
                    killed = await etcd_trio.leader()
                    killed.kill()
                began = time.monotonic()
                await write(kv, key)
                stalls.append(time.monotonic() - began)
        assert [event.key for event in seen] == keys
        assert max(stalls) < 5
        assert not lease.lost.is_set()


async def test_a_member_that_hangs_is_left_for_another(etcd_trio: EtcdCluster) -> None:
    async with EtcdKV(etcd_trio.endpoints, timeout_s=3) as kv, asyncio.timeout(30):
        await kv.put("/a", b"1")
        leader = await etcd_trio.leader()
        leader.signal(signal.SIGSTOP)
        try:
            entry = None
            while entry is None:
                entry = await kv.get("/a")
            await write(kv, "/b")
        finally:
            leader.signal(signal.SIGCONT)
        assert entry.value == b"1"


async def test_a_member_without_a_leader_is_left_or_says_unavailable(etcd_trio: EtcdCluster) -> None:
    async with EtcdKV(etcd_trio.endpoints) as kv, asyncio.timeout(60):
        await kv.put("/a", b"1")
        for member in etcd_trio.members[1:]:
            member.kill()
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(write(kv, "/b"))
            for member in etcd_trio.members[1:]:
                tasks.create_task(etcd_trio.restart(member))
        assert writing.done()
        assert await kv.get("/b") is not None


async def test_dead_endpoints_among_the_living_do_not_matter(etcd: EtcdCluster) -> None:
    dead = [f"127.0.0.1:{port}" for port in free_ports(2)]
    async with EtcdKV([*dead, f"http://{etcd.endpoints[0]}"], timeout_s=3) as kv, asyncio.timeout(10):
        revision = await kv.put("/alive", b"1")
        async with aclosing(kv.watch("/alive", start_revision=revision)) as batches:
            assert (await anext(batches)).revision == revision


def test_a_client_without_endpoints_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        EtcdKV([])
