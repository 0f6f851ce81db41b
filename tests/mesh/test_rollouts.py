"""Rollouts as users and their callers see them: the whole mesh, real Triton, Envoy, etcd and agents, under load."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from lepton.client import AsyncClient
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.rollout_pb2 import Canary, GateVerdict, PromotionGate, RollbackPolicy, RolloutStatus, Strategy
from tests.harness import rollout_models as models
from tests.harness.gateway_load import Load, stub, under_load
from tests.harness.wait import until
from tests.mesh.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]
PATIENT = PromotionGate(max_latency_ratio=50)
"""A gate that a busy machine does not fail."""


def is_right(x: Any, given: Any) -> bool:
    """Every good version gives the same labels."""
    scores = models.answers(x)
    return bool(np.argsort(scores, axis=1)[0, -1] == given.argmax()) or bool(np.ptp(np.sort(scores)[0, -2:]) < 0.6)


async def version(client: AsyncClient, onnx: bytes, model: str = "digits") -> str:
    """Registers a version of an ONNX file; its name."""
    store: dict[str, bytes] = {}
    manifest = models.package(onnx, store)
    for content in (*store.values(), manifest):
        uploaded = await client.artifacts.upload(content)
    return (await client.models.register(model, uploaded.digest)).name


@pytest_asyncio.fixture
async def served(client: AsyncClient) -> AsyncIterator[Deployment]:
    """Two replicas of the good model, by rolling updates."""
    first = await version(client, models.good())
    created = await client.deployments.create("digits", first, replicas=2)
    yield await client.deployments.wait("digits", timeout_s=60)
    await client.deployments.delete(created.name)
    await client.deployments.wait_deleted(created.name, timeout_s=60)


@pytest_asyncio.fixture
async def load(stack: Stack, client: AsyncClient, served: Deployment) -> AsyncIterator[Load]:
    """Callers of that deployment."""
    root = stack.profile.trust_bundle.read_bytes()
    options = [("grpc.ssl_target_name_override", "gateway")]
    credentials = grpc.ssl_channel_credentials(root)
    async with grpc.aio.secure_channel(stack.profile.gateway, credentials, options=options) as channel:
        yield Load(stub(channel), served.model_name, client.fresh_access_token, is_right, pause_s=0.005)


def canary(*weights: int, hold_s: float = 1.0, gate: PromotionGate | None = None, window_s: int = 15) -> Strategy:
    hold = Duration(seconds=int(hold_s), nanos=int(hold_s % 1 * 1e9))
    steps = [Canary.Step(weight=weight, hold=hold) for weight in weights]
    policy = RollbackPolicy(window=Duration(seconds=window_s), max_latency_ratio=5, min_calls=3)
    return Strategy(canary=Canary(steps=steps), gate=gate, rollback=policy)


def steps_of(*steps: tuple[int, float]) -> Strategy:
    """A canary of these weights, each held so long, with the gate."""
    made = canary(*(weight for weight, _ in steps), gate=PATIENT)
    for step, (_, hold_s) in zip(made.canary.steps, steps, strict=True):
        step.hold.FromMilliseconds(round(hold_s * 1000))
    return made


def is_at_step(weight: int) -> Callable[[Deployment], bool]:
    def is_there(current: Deployment) -> bool:
        return any(each.revision == 2 and each.weight == weight for each in current.rollout.targets)

    return is_there


async def rollouts(client: AsyncClient, load: Load, times: int, least: int) -> None:
    """So many rolling updates one after the other, each to another package."""
    for turn in range(1, times + 1):
        await client.deployments.roll_out("digits", await version(client, models.good(turn / 1000)))
        done = await client.deployments.wait_rollout("digits", timeout_s=120)
        assert done.rollout.state == RolloutStatus.COMPLETED, done.rollout
        assert load.failures == []
    await until(lambda: load.answered >= least, 300)


async def test_two_rollouts_under_load_fail_no_call(client: AsyncClient, load: Load) -> None:
    async with under_load(load, callers=4):
        await rollouts(client, load, 2, least=500)
    assert load.failures == []
    history = await client.deployments.revisions("digits").all()
    assert [each.name.rpartition("/")[2] for each in history] == ["3", "2", "1"]
    assert {"1", "2", "3"} <= set(load.revisions)


async def test_twenty_rollouts_under_load_fail_none_of_twenty_thousand_calls(client: AsyncClient, load: Load) -> None:
    async with under_load(load, callers=8):
        await rollouts(client, load, 20, least=20_000)
    assert load.failures == []
    assert set(load.revisions) == {str(number) for number in range(1, 22)}


async def test_a_broken_quantised_model_is_refused_and_a_good_one_passes(client: AsyncClient, load: Load) -> None:
    async with under_load(load, callers=2):
        broken = await version(client, models.quantised(broken=True))
        await client.deployments.roll_out("digits", broken, strategy=canary(50, gate=PATIENT))
        refused = await client.deployments.wait_rollout("digits", timeout_s=120)
        (verdict,) = refused.rollout.verdicts
        assert refused.rollout.state == RolloutStatus.REFUSED, refused.rollout
        failed = {GateVerdict.Measure.Name(check.measure) for check in verdict.checks if not check.passed}
        assert {"ACCURACY", "LABEL_AGREEMENT"} <= failed, verdict
        assert refused.state == Deployment.READY
        assert load.revisions.keys() == {"1"}, "it never got a call"

        good = await version(client, models.quantised())
        await client.deployments.roll_out("digits", good)
        passed = await client.deployments.wait_rollout("digits", timeout_s=120)
        assert passed.rollout.state == RolloutStatus.COMPLETED, passed.rollout
        assert passed.rollout.verdicts[0].live_requests > 0, "live requests are compared too"
    assert load.failures == []


async def test_a_model_that_gets_slow_at_half_the_calls_is_rolled_back(client: AsyncClient, load: Load) -> None:
    slow = await version(client, models.can_be_slowed())
    async with under_load(load, callers=2):
        await client.deployments.roll_out("digits", slow, strategy=steps_of((10, 1), (50, 60)))

        await client.deployments.wait("digits", until=is_at_step(50), timeout_s=120)
        load.first = models.SLOW
        done = await client.deployments.wait_rollout("digits", timeout_s=120)
        assert done.rollout.state == RolloutStatus.ROLLED_BACK, done.rollout
        assert "90th percentile" in done.rollout.message
        assert done.rollout.stable_revision == 1
        assert [(each.revision, each.weight) for each in done.rollout.targets if each.weight] == [(1, 100)]
        load.first = None
    assert load.failures == []


async def test_a_model_that_stays_fast_is_promoted(client: AsyncClient, load: Load) -> None:
    fast = await version(client, models.can_be_slowed())
    async with under_load(load, callers=2):
        await client.deployments.roll_out("digits", fast, strategy=steps_of((10, 1), (50, 4)))
        done = await client.deployments.wait_rollout("digits", timeout_s=120)
    assert done.rollout.state == RolloutStatus.COMPLETED, done.rollout
    assert done.rollout.stable_revision == 2
    assert load.failures == []


async def test_a_leader_that_is_killed_in_the_middle_is_followed_by_one_that_goes_on(
    stack: Stack, client: AsyncClient, load: Load
) -> None:
    async with under_load(load, callers=2):
        following = await version(client, models.good(0.001))
        await client.deployments.roll_out("digits", following, strategy=canary(50, hold_s=4, gate=PATIENT))

        half = await client.deployments.wait("digits", until=is_at_step(50), timeout_s=120)
        before = stack.restarts("inference")
        stack.kill("inference")
        await until(lambda: stack.restarts("inference") > before, 60)
        done = await client.deployments.wait_rollout("digits", timeout_s=120)
    assert done.rollout.state == RolloutStatus.COMPLETED, done.rollout
    assert done.rollout.start_time == half.rollout.start_time, "it was one rollout"
    assert len(done.rollout.verdicts) == 1, "what was passed is not asked for again"
    assert load.failures == []
