"""Deployments that scale and sleep, as callers meet them: the whole mesh, real Triton, Envoy, etcd and agents."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from lepton.client import AsyncClient
from tests.harness.gateway_load import stub
from tests.harness.scaling_trace import ScalingTrace, deploy, play, wish
from tests.harness.wait import until
from tests.mesh.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]


@pytest_asyncio.fixture
async def trace(stack: Stack, client: AsyncClient) -> AsyncIterator[ScalingTrace]:
    """Callers of a deployment that scales from none to four."""
    deployment = await deploy(client, "scaled", wish(scale_to_zero_delay=Duration(seconds=3)))
    root = stack.profile.trust_bundle.read_bytes()
    options = [("grpc.ssl_target_name_override", "gateway")]
    async with grpc.aio.secure_channel(
        stack.profile.gateway, grpc.ssl_channel_credentials(root), options=options
    ) as channel:
        yield ScalingTrace(client, "scaled", stub(channel), deployment.model_name)
    await client.deployments.delete("scaled")
    await client.deployments.wait_deleted("scaled", timeout_s=60)


async def asleep(client: AsyncClient) -> None:
    """Nobody calls until the last replica is gone."""
    await client.deployments.wait(
        "scaled", until=lambda each: not each.scaling.desired and not each.ready_replicas and each.HasField("scaling"),
        timeout_s=60,
    )  # fmt: skip


async def test_a_sleeping_deployment_answers_its_first_calls(client: AsyncClient, trace: ScalingTrace) -> None:
    await asleep(client)
    assert await asyncio.gather(*(trace.one(seed) for seed in range(8))) == [""] * 8
    woken = await client.deployments.get("scaled")
    assert woken.scaling.desired >= 1
    assert any("wake" in each.why for each in woken.scaling.decisions)


@pytest.mark.slow
async def test_a_service_killed_while_calls_are_held_fails_them_cleanly_and_a_retry_is_answered(
    stack: Stack, client: AsyncClient, trace: ScalingTrace
) -> None:
    await asleep(client)
    before = stack.restarts("inference")
    held = [asyncio.create_task(trace.one(seed)) for seed in range(4)]
    await client.deployments.wait("scaled", until=lambda each: each.scaling.desired > 0, timeout_s=30)
    stack.kill("inference")
    outcomes = await asyncio.gather(*held)
    assert all(each == "" or each.startswith("UNAVAILABLE") for each in outcomes), outcomes
    assert any(outcomes), "they were held by the service that was killed"
    answered: list[str] = []

    async def is_answered() -> bool:
        answered.append(await trace.one(99))
        assert answered[-1] == "" or answered[-1].startswith("UNAVAILABLE"), answered
        return answered[-1] == ""

    await until(is_answered, 90)
    assert stack.restarts("inference") == before + 1


@pytest.mark.slow
async def test_a_replica_that_gets_no_place_is_told_and_one_that_gets_it_answers(
    client: AsyncClient, trace: ScalingTrace
) -> None:
    await asleep(client)
    await client.deployments.autoscale("scaled", wish(cold_start_patience=Duration(seconds=4)))
    nodes = [each.name for each in await client.nodes.list().all()]
    for node in nodes:
        await client.nodes.cordon(node)
    try:
        failure = await trace.one(1)
        assert failure.startswith("UNAVAILABLE"), failure
        assert "no replica of it was ready after" in failure
    finally:
        for node in nodes:
            await client.nodes.uncordon(node)
    await client.deployments.autoscale("scaled", wish())
    assert await trace.one(2) == "", "the negative control"


@pytest.mark.slow
async def test_replicas_follow_a_load_of_one_ten_one_none_and_a_burst(trace: ScalingTrace) -> None:
    figures: dict[str, Any] = await play(trace)
    assert figures["errors"] == [], figures["why"]
    phases = {each["phase"]: each for each in figures["phases"]}
    for name in ("one", "ten", "one again"):
        assert phases[name]["p99_ms"] < 1000, phases[name]
    desired = [each["desired"] for each in figures["replicas"]]
    assert max(desired) == 4
    assert 0 in desired
    assert desired[-1] == 4
    assert 0 < figures["cold_start_s"] < 60
