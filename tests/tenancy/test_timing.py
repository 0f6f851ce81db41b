"""Row 32, time: to refuse what another has takes the same work, and no longer, than to refuse what nobody has.

The work is counted: no call about a foreign project reads the store. The time is compared by ranks of calls that are
interleaved at random, so that a slow or busy machine slows both kinds alike; no test looks at a duration.
"""

import random
from collections import Counter
from time import perf_counter
from typing import Any, Final

import pytest

from chassis.call import current_call
from chassis.etcd import EtcdKV
from lepton.auth.v1.session_service_pb2 import PasswordCredential, SignInRequest
from lepton.names import JobName, not_found
from services.trainer.store import JobStore, job_key
from tests.tenancy.conftest import Tenants
from tests.tenancy.leaks import Prober
from tests.tenancy.rpcs import Rpc, every_rpc

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]

RPCS: Final = {rpc.name: rpc for rpc in every_rpc()}
PAIRS: Final = 160
APART: Final = 0.16
"""How far from one half the probability may be that one kind takes longer; by chance it is 0.032 (one sigma)."""


def separation(one: list[float], other: list[float]) -> float:
    """How far from one half the probability is that a value of the one exceeds one of the other (Mann-Whitney's U)."""
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    above = sum(rank for rank, (_, kind) in enumerate(ranked, 1) if kind == 0) - len(one) * (len(one) + 1) / 2
    return abs(above / (len(one) * len(other)) - 0.5)


@pytest.mark.parametrize("name", ["GetJob", "GetWorkload", "GetDeployment", "GetServiceAccount"])
async def test_absent_and_foreign_things_take_as_long(tenants: Tenants, name: str) -> None:
    assert await _apart(tenants.prober, RPCS[name]) < APART


async def test_a_service_that_looks_whether_it_is_there_is_caught(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what is there is read from the store before the refusal, what is not there is not."""
    kv, existing = tenants.world.auth.kv, tenants.other.names["Job"]

    async def looking(_store: JobStore, name: JobName) -> Any:
        if str(name) == existing:
            await kv.get(job_key(name))
        raise not_found(name)

    monkeypatch.setattr(JobStore, "get", looking)
    with tenants.careless("trainer"):
        assert await _apart(tenants.prober, RPCS["GetJob"]) > APART


async def test_a_foreign_name_costs_no_look_at_the_store(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _count_reads(monkeypatch)
    prober = tenants.prober
    project = [rpc for rpc in every_rpc() if rpc.is_in_project]
    for rpc in project:
        await prober.ask(rpc, rpc.request(tenants.other, ""))
    assert not seen, seen


async def test_who_is_let_in_costs_one(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what is counted is there to be counted."""
    seen = _count_reads(monkeypatch)
    rpc = RPCS["GetJob"]
    await tenants.prober.ask(rpc, rpc.request(tenants.caller, ""))
    assert seen[rpc.path] == 1


async def test_a_password_of_nobody_is_looked_at_as_long_as_a_wrong_one(tenants: Tenants) -> None:
    rpc, prober = RPCS["SignIn"], tenants.prober

    def request(user: str) -> SignInRequest:
        return SignInRequest(password=PasswordCredential(user=user, password="not the right one"))

    absent = prober._absent(tenants.other.user)
    found = await prober.ask(rpc, request(tenants.other.user), "")
    assert found == prober._back(await prober.ask(rpc, request(absent), "")), "and is answered alike, byte for byte"


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """By method, how often the calls of clients read or write the store from now on."""
    seen: Counter[str] = Counter()
    for method in ("get", "list", "txn", "put"):
        monkeypatch.setattr(EtcdKV, method, _counted(getattr(EtcdKV, method), seen))
    return seen


def _counted(method: Any, seen: Counter[str]) -> Any:
    async def counted(self: EtcdKV, *arguments: Any, **facts: Any) -> Any:
        call = current_call()
        if call is not None and not call.peer:
            seen[call.method.path] += 1
        return await method(self, *arguments, **facts)

    return counted


async def _apart(prober: Prober, rpc: Rpc) -> float:
    """How well the time that a refusal takes tells what is there from what is not."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    existing = rpc.request(prober.other, "")
    kinds = {"existing": existing, "absent": prober._without(existing)}
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = ["existing", "absent"] * (PAIRS + 20)
    random.Random(seed).shuffle(order)
    for at, kind in enumerate(order):
        began = perf_counter()
        answer = await prober.ask(rpc, kinds[kind])
        seconds = perf_counter() - began
        assert answer.code == "NOT_FOUND"
        if at >= 40:  # the first ones warm up what all use
            took[kind].append(seconds)
    return separation(took["existing"], took["absent"])
