"""Deployments that share a server, as callers meet them: the whole mesh, real Triton, Envoy, etcd and agents."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from lepton.client import AsyncClient
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.serving_options_pb2 import ServingOptions
from tests.harness import rollout_models as models
from tests.harness.gateway_load import stub
from tests.harness.scaling_trace import ScalingTrace
from tests.harness.wait import until
from tests.mesh.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(400)]
NAMES = ("one", "two", "three")


@pytest_asyncio.fixture
async def gateway(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    root = stack.profile.trust_bundle.read_bytes()
    options = [("grpc.ssl_target_name_override", "gateway")]
    async with grpc.aio.secure_channel(
        stack.profile.gateway, grpc.ssl_channel_credentials(root), options=options
    ) as channel:
        yield channel


async def deploy(client: AsyncClient, name: str, shift: float) -> Deployment:
    """The good model under a name, on a shared server."""
    store: dict[str, bytes] = {}
    manifest = models.package(models.good(shift), store)
    for content in (*store.values(), manifest):
        uploaded = await client.artifacts.upload(content)
    version = await client.models.register(name, uploaded.digest)
    return await client.deployments.create(name, version.name, replicas=1, serving=ServingOptions(shared=True))


async def test_three_deployments_share_one_server_and_survive_its_agents_death(
    stack: Stack, client: AsyncClient, gateway: grpc.aio.Channel
) -> None:
    made = [await deploy(client, name, float(number)) for number, name in enumerate(NAMES)]
    callers = [ScalingTrace(client, each.model_name, stub(gateway), each.model_name) for each in made]
    for name in NAMES:
        await client.deployments.wait(name, until=lambda each: each.ready_replicas >= 1, timeout_s=120)

    async def are_answered() -> bool:
        return await asyncio.gather(*(caller.one(number) for number, caller in enumerate(callers))) == [""] * 3

    await until(are_answered, 60)
    shared = [each for each in await client.workloads.list().all() if "shared-models" in each.name]
    assert len(shared) == 1, [each.name for each in shared]
    (running,) = [piece for piece in shared[0].slices if piece.node]
    stack.kill(f"agent-{running.node.rpartition('/')[2]}")
    await until(are_answered, 120)
    for name in NAMES:
        await client.deployments.delete(name)
    for name in NAMES:
        await client.deployments.wait_deleted(name, timeout_s=60)
    refused = await callers[0].one(7, timeout_s=10)
    assert refused.startswith("NOT_FOUND"), refused
