"""What the gateway tells of each revision's load: from Envoy's own numbers, and from a real Envoy."""

import asyncio
import math
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.inference.envoy import Load, Route, Routes, Target
from services.inference.envoy.load import Bucket, Failures, loads
from tests.harness.gateway_caller import Caller, channel
from tests.harness.named_replica import named_replica
from tests.harness.serving import gateway
from tests.harness.wait import until


def cluster(name: str, **errors: int) -> Any:
    hosts = [
        {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": int(port[1:])}},
            "stats": [{"name": "rq_total", "value": "9"}, {"name": "rq_error", "value": str(count)}],
        }
        for port, count in errors.items()
    ]
    return {"name": name, "host_statuses": hosts}


def statuses(*clusters: Any) -> Any:
    return {"cluster_statuses": list(clusters)}


def test_failures_outlive_the_host_that_counted_them() -> None:
    failures = Failures()
    assert failures.count(statuses(cluster("a.b@r1", p1=2, p2=1), cluster("any-replica", p1=7))) == {("a.b", 1): 3}
    assert failures.count(statuses(cluster("a.b@r1", p2=4))) == {("a.b", 1): 6}, "p1 has left"
    assert failures.count(statuses(cluster("a.b@r1", p1=1, p2=4))) == {("a.b", 1): 7}, "p1 is back, and counts anew"
    assert failures.count(statuses(cluster("a.b@r2"))) == {("a.b", 2): 0}, "the revision is gone"


def test_numbers_of_a_revision_are_gathered_and_those_of_others_left_out() -> None:
    stats = {
        "stats": [
            {"name": "cluster.a.b@r3.upstream_rq_total", "value": 12},
            {"name": "cluster.a.b@r3.upstream_rq_active", "value": 2},
            {"name": "cluster.a.b@r3.upstream_rq_pending_active", "value": 1},
            {"name": "cluster.any-replica.upstream_rq_total", "value": 99},
            {
                "histograms": {
                    "details": [
                        {
                            "name": "cluster.a.b@r3.upstream_rq_time",
                            "totals": [
                                {"lower_bound": 0, "width": 0, "count": 5},
                                {"lower_bound": 2, "width": 0.1, "count": 5},
                            ],
                        }
                    ]
                }
            },
        ]
    }
    (load,) = loads(stats, {("a.b", 3): 4}).values()
    assert (load.requests, load.in_flight, load.errors) == (12, 3, 4)
    assert load.latencies == (Bucket(lower_ms=0, upper_ms=1, count=5), Bucket(lower_ms=2, upper_ms=3, count=5))


def test_quantiles_lie_within_their_buckets() -> None:
    load = Load(latencies=(Bucket(lower_ms=0, upper_ms=1, count=50), Bucket(lower_ms=4, upper_ms=6, count=50)))
    assert (load.quantile_ms(0.5), load.quantile_ms(0.75), load.quantile_ms(1)) == (1.0, 5.0, 6.0)
    assert math.isnan(Load().quantile_ms(0.5))


def test_a_span_is_the_difference_and_begins_anew_with_the_gateway() -> None:
    one, two = Bucket(lower_ms=0, upper_ms=1, count=3), Bucket(lower_ms=1, upper_ms=2, count=4)
    before = Load(requests=3, errors=1, latencies=(one,))
    after = Load(requests=9, errors=2, in_flight=1, latencies=(one, two))
    assert after.since(before) == Load(requests=6, errors=1, in_flight=1, latencies=(two,))
    assert before.since(after) == before, "fewer than before: the gateway was restarted"


@pytest.mark.integration
async def test_a_real_gateway_tells_the_load_of_each_revision(tmp_path: Path) -> None:
    async with AsyncExitStack() as exits:
        front = await exits.enter_async_context(gateway(tmp_path / "envoy"))
        one = await exits.enter_async_context(named_replica("one"))
        two = await exits.enter_async_context(named_replica("two"))
        ada = Caller.of(await exits.enter_async_context(channel(front)), front.authority.token("demo"))
        targets = (
            Target(revision=1, endpoints=(one.endpoint,)),
            Target(revision=2, endpoints=(two.endpoint,), weight=0),
        )
        await front.route(Routes(routes=(Route(model="demo.digits", targets=targets),)))
        await until(lambda: _passes(ada))
        began = await front.admin.load()
        for _ in range(10):
            await ada.infer("demo.digits")
        one.fails = grpc.StatusCode.INTERNAL
        for _ in range(3):
            assert (await ada.refused("demo.digits"))[0] == "INTERNAL"
        one.fails = grpc.StatusCode.INVALID_ARGUMENT
        assert (await ada.refused("demo.digits"))[0] == "INVALID_ARGUMENT"
        one.fails = None
        one.gate.clear()
        waiting = asyncio.ensure_future(ada.infer("demo.digits", timeout=30))
        await until(lambda: one.waiting == 1)

        async def is_told() -> bool:
            told = (await front.admin.load())["demo.digits", 1].since(began["demo.digits", 1])
            return sum(bucket.count for bucket in told.latencies) == 14

        await until(is_told)
        ended = await front.admin.load()
        assert set(ended) == {("demo.digits", 1), ("demo.digits", 2)}
        span = ended["demo.digits", 1].since(began["demo.digits", 1])
        assert (span.requests, span.errors, span.in_flight) == (15, 3, 1)
        assert span.quantile_ms(0.5) <= span.quantile_ms(0.99)
        assert ended["demo.digits", 2].since(began["demo.digits", 2]).requests == 0
        one.gate.set()
        await waiting


async def _passes(caller: Caller) -> bool:
    return await caller.refused("demo.digits") == ("OK", "")
