"""An election on a real etcd, with a leader that is cut off."""

import asyncio
from uuid import uuid4

import pytest

from chassis.election import Election
from chassis.etcd import EtcdKV
from chassis.kv import Put
from tests.harness.etcd import EtcdCluster
from tests.harness.proxy import Proxy

pytestmark = pytest.mark.integration


async def test_a_leader_that_is_cut_off_knows_it_before_its_successor_begins(
    etcd: EtcdCluster, etcd_kv: EtcdKV
) -> None:
    key = f"/election/{uuid4().hex}"
    async with Proxy(etcd.endpoints[0]) as proxy, EtcdKV([proxy.endpoint]) as cut_kv, asyncio.timeout(30):
        stale_election = Election(cut_kv, key, "stale", ttl_s=3, renew_deadline_s=2, retry_s=0.2)
        fresh_election = Election(etcd_kv, key, "fresh", ttl_s=3, renew_deadline_s=2, retry_s=0.2)
        async with stale_election.lead() as stale:
            await cut_kv.txn([stale.guard], [Put(key + "/work", b"1")])
            proxy.cut()
            async with fresh_election.lead() as fresh:
                assert stale.lost.is_set()
                assert not fresh.lost.is_set()
                proxy.heal()
                assert not (await cut_kv.txn([stale.guard], [Put(key + "/work", b"late")])).succeeded
                assert (await etcd_kv.txn([fresh.guard], [Put(key + "/work", b"2")])).succeeded
                entry = await etcd_kv.get(key + "/work")
                assert entry is not None
                assert entry.value == b"2"
                await cut_kv.put(key + "/work", b"late")  # the control: without the guard etcd accepts it
        assert await fresh_election.leader() is None


async def test_many_candidates_lead_one_after_the_other(etcd: EtcdCluster) -> None:
    key = f"/election/{uuid4().hex}"
    leading = 0
    terms: list[int] = []

    async def lead_once(name: str) -> None:
        nonlocal leading
        async with EtcdKV(etcd.endpoints) as kv, Election(kv, key, name).lead() as leadership:
            leading += 1
            assert leading == 1
            terms.append(leadership.guard.revision)
            await kv.txn([leadership.guard], [Put(key + "/term", name.encode())])
            leading -= 1

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(lead_once(f"candidate-{number}"))
    assert sorted(terms) == terms
    assert len(set(terms)) == 6
