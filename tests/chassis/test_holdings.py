"""Limits of what principals hold: counted from the store, enforced when many are made at once by several processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chassis.access import PolicyReplica, PolicySnapshot
from chassis.clock import SystemClock
from chassis.etcd import EtcdKV
from chassis.holdings import Admitted, Holding, Holdings, Unlimited
from chassis.kv import KV, Delete, DeletePrefix, Put, absent
from chassis.principal_limits import Allowance, PrincipalLimit, PrincipalLimits
from chassis.principal_rates import PrincipalRates
from lepton.errors import ResourceExhausted, Unavailable
from tests.harness.clock import ManualClock
from tests.harness.etcd import EtcdCluster
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

ROOT = "/lepton/test/"
ANN, BEN = "users/ann", "users/ben"


def policy(*limits: PrincipalLimit, revision: int = 1) -> PolicySnapshot:
    return PolicySnapshot(revision=revision, issuer="i", audience="a", limits=limits)


def limit(member: str, **amounts: Any) -> PrincipalLimit:
    return PrincipalLimit(members=(member,), allowance=Allowance(**amounts))


def read(stored: bytes) -> Holding | None:
    """`holder devices state`."""
    holder, devices, state = stored.decode().split()
    return None if state == "ended" else Holding(holder=holder, device_milli=int(devices))


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.integration)])
def cluster(request: pytest.FixtureRequest) -> EtcdCluster | None:
    return request.getfixturevalue("etcd") if request.param == "etcd" else None


@pytest.fixture
async def kv(cluster: EtcdCluster | None) -> AsyncIterator[KV]:
    if cluster is None:
        async with MemoryKV() as memory:
            yield memory
        return
    async with EtcdKV(cluster.endpoints) as etcd:
        await etcd.txn([], [DeletePrefix(ROOT)])
        yield etcd


@asynccontextmanager
async def counting(kv: KV, *limits: PrincipalLimit) -> AsyncIterator[tuple[Holdings, PolicyReplica]]:
    access = PolicyReplica()
    access.apply(policy(*limits))
    held = Holdings(kv, access, SystemClock(), prefix=f"{ROOT}jobs/", guards=f"{ROOT}holders/", kind="jobs", read=read)
    running = asyncio.create_task(held.run())
    try:
        yield held, access
    finally:
        running.cancel()


async def make(kv: KV, held: Any, job: str, holder: str = ANN, devices: int = 1000) -> bool:
    """As a service does: until its transaction holds."""
    while True:
        async with held.admit(holder, devices) as admitted:
            key = f"{ROOT}jobs/{job}"
            write = Put(key, f"{holder} {devices} running".encode())
            done = await kv.txn([absent(key), *admitted.guard], [write, *admitted.ops])
            if done.succeeded:
                return True
            if await kv.get(key) is not None:
                return False


async def end(kv: KV, job: str, holder: str = ANN) -> None:
    await kv.txn([], [Put(f"{ROOT}jobs/{job}", f"{holder} 0 ended".encode())])


async def test_the_limit_counts_what_has_not_ended(kv: KV) -> None:
    async with counting(kv, limit(ANN, max_unfinished=2)) as (held, _):
        await make(kv, held, "one")
        await make(kv, held, "two")
        with pytest.raises(ResourceExhausted) as caught:
            await make(kv, held, "three")
        facts = {"principal": ANN, "limit": "2", "unit": "jobs", "used": "2", "wanted": "1"}
        assert (caught.value.reason, caught.value.metadata) == ("PRINCIPAL_LIMIT_EXCEEDED", facts)
        assert caught.value.fields == {ANN: "at most 2 jobs; 2 are taken and 1 more asked for"}
        await make(kv, held, "hers", BEN)  # who has no limit
        await end(kv, "one")
        await until(lambda: not read_held(held, "one"))
        await make(kv, held, "three")
        await kv.txn([], [Delete(f"{ROOT}jobs/two")])
        await until(lambda: not read_held(held, "two"))
        await make(kv, held, "four")
        with pytest.raises(ResourceExhausted):
            await make(kv, held, "five")


def read_held(held: Holdings, job: str) -> bool:
    return f"{ROOT}jobs/{job}" in held._held


async def test_devices_are_added_up_and_a_change_counts_the_difference(kv: KV) -> None:
    async with counting(kv, limit(ANN, max_device_milli=4000)) as (held, _):
        await make(kv, held, "one", devices=3000)
        with pytest.raises(ResourceExhausted) as caught:
            await make(kv, held, "two", devices=1500)
        assert caught.value.metadata["unit"] == "devices of jobs"
        assert (caught.value.metadata["used"], caught.value.metadata["wanted"]) == ("3", "1.5")
        async with held.admit(ANN, 4000, f"{ROOT}jobs/one") as admitted:
            assert admitted.guard
        with pytest.raises(ResourceExhausted):
            async with held.admit(ANN, 4001, f"{ROOT}jobs/one"):
                pass
        async with held.admit(ANN, 1000, f"{ROOT}jobs/one"):
            pass  # to ask for less is always allowed


async def test_a_limit_that_is_set_later_counts_what_is_there(kv: KV) -> None:
    async with counting(kv) as (held, access):
        for job in ("one", "two", "three"):
            await make(kv, held, job)
        assert not held.counts(ANN)
        access.apply(policy(limit("*", max_unfinished=2), revision=2))
        with pytest.raises(ResourceExhausted) as caught:
            await make(kv, held, "four")
        assert caught.value.metadata["used"] == "3"
        access.apply(policy(revision=3))
        await make(kv, held, "four")


async def race(kv: KV, replicas: list[Any], jobs: int = 24) -> int:
    async def one(number: int) -> int:
        try:
            return int(await make(kv, replicas[number % len(replicas)], f"job-{number}"))
        except ResourceExhausted:
            return 0

    return sum(await asyncio.gather(*(one(number) for number in range(jobs))))


async def test_of_many_at_once_at_three_replicas_no_more_get_in_than_may(kv: KV) -> None:
    limited = limit(ANN, max_unfinished=5)
    async with counting(kv, limited) as (a, _), counting(kv, limited) as (b, _), counting(kv, limited) as (c, _):
        assert await race(kv, [a, b, c]) == 5


class Unguarded(Holdings):
    """Counts, and leaves the transaction alone."""

    @asynccontextmanager
    async def admit(self, holder: str, device_milli: int = 0, instead_of: str = "") -> AsyncIterator[Admitted]:
        async with super().admit(holder, device_milli, instead_of):
            pass
        yield Admitted()


async def test_without_the_guard_more_get_in() -> None:
    """The negative control."""
    async with MemoryKV() as kv, counting(kv, limit(ANN, max_unfinished=5)) as (held, access):
        loose = Unguarded(
            kv, access, SystemClock(), prefix=f"{ROOT}jobs/", guards=f"{ROOT}holders/", kind="jobs", read=read
        )
        running = asyncio.create_task(loose.run())
        assert await race(kv, [loose]) > 5
        running.cancel()
        del held


async def test_a_count_that_never_comes_up_to_date_admits_nothing() -> None:
    clock, access = ManualClock(), PolicyReplica()
    access.apply(policy(limit(ANN, max_unfinished=5)))
    async with MemoryKV() as kv:
        held = Holdings(kv, access, clock, prefix=f"{ROOT}jobs/", guards=f"{ROOT}g/", kind="jobs", read=read)

        async def ask() -> None:
            async with held.admit(ANN):
                pass

        asking = asyncio.create_task(ask())  # nobody runs it
        await clock.advance(6)
        with pytest.raises(Unavailable, match="STORE_UNAVAILABLE"):
            await asking


async def test_without_a_policy_nothing_is_counted() -> None:
    async with Unlimited().admit(ANN, 10**9) as admitted:
        assert admitted == Admitted()
    assert not Unlimited().counts(ANN)


def test_of_several_limits_the_least_counts_and_the_rest_have_their_own() -> None:
    limits = PrincipalLimits(
        (
            limit(ANN, max_unfinished=5, requests_per_s=2.0),
            limit(ANN, max_unfinished=3),
            limit("*", max_unfinished=9, max_device_milli=1000),
        )
    )
    assert limits.of(ANN) == Allowance(max_unfinished=3, requests_per_s=2.0)
    assert limits.of(BEN) == Allowance(max_unfinished=9, max_device_milli=1000)
    assert PrincipalLimits().of(ANN) == Allowance()
    assert limits.is_counted
    assert not PrincipalLimits((limit(ANN, requests_per_s=1.0),)).is_counted


def test_a_rate_lets_in_what_it_says_and_says_when_to_come_back() -> None:
    limits = PrincipalLimits((limit(ANN, requests_per_s=5.0),))
    rates = PrincipalRates(limits.of)
    assert [rates.take(ANN, 100.0) for _ in range(10)] == [0.0] * 10  # two seconds' worth
    assert rates.take(ANN, 100.0) == pytest.approx(0.2)
    assert rates.take(ANN, 100.2) == 0.0
    assert rates.take(ANN, 100.2) > 0.0
    assert all(rates.take(BEN, 100.0) == 0.0 for _ in range(1000))
    slow = PrincipalRates(PrincipalLimits((limit(ANN, requests_per_s=0.1),)).of)
    assert slow.take(ANN, 0.0) == 0.0  # one call may always come
    assert slow.take(ANN, 0.0) == pytest.approx(10.0)


def test_rates_are_remembered_for_so_many_callers_only() -> None:
    rates = PrincipalRates(PrincipalLimits((limit("*", requests_per_s=1.0),)).of, max_callers=10)
    for number in range(1000):
        assert rates.take(f"users/u{number}", 0.0) == 0.0
    assert len(rates._levels) == 10
