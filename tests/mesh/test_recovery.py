"""What the mesh survives: killed services, killed agents; nothing is lost and nothing is done twice."""

import asyncio

import pytest

from lepton.client import AsyncClient
from lepton.trainer.v1.job_pb2 import Job
from tests.harness.wait import until
from tests.mesh.conftest import Stack, digits_job

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="function"),
]


async def training(client: AsyncClient, job_id: str, *, epochs: int, pools: tuple[str, ...] = ()) -> None:
    """Submits a job and returns once it has committed a checkpoint."""
    await client.jobs.create(job_id, await digits_job(client, epochs=epochs, pools=pools))
    async with asyncio.timeout(120):
        async for job in client.jobs.watch(job_id):
            assert job.state not in {Job.FAILED, Job.SUCCEEDED}, job.message
            if job.checkpoint:
                return


async def test_a_job_succeeds_though_every_service_is_killed_in_turn(stack: Stack, client: AsyncClient) -> None:
    await training(client, "survivor", epochs=150)
    for service in ("auth", "scheduler", "trainer", "inference"):
        before = stack.restarts(service)
        stack.kill(service)
        await until(lambda service=service, before=before: stack.restarts(service) > before, 30)
        # The next one dies only when this one answers again.
        async with asyncio.timeout(60):
            await client.jobs.get("survivor")
            [node async for node in client.nodes.list()]
    job = await client.jobs.wait("survivor", timeout_s=150)
    assert job.state == Job.SUCCEEDED, job
    assert job.generation == 1, "the ranks were never disturbed"
    names = [each.owner async for each in client.workloads.list()]
    assert names.count(job.name) == 1, "one job, one workload"
    assert job.metrics["accuracy"] >= 0.97


async def test_a_killed_agent_loses_its_node_and_its_gang_finishes_elsewhere(stack: Stack, client: AsyncClient) -> None:
    pools = ("pools/general", "pools/performance")
    await training(client, "mover", epochs=80, pools=pools)
    before = await client.jobs.get("mover")
    assert any("general-2" in node for node in before.nodes)
    stack.kill("agent-general-2")
    async with asyncio.timeout(120):
        async for job in client.jobs.watch("mover"):
            if job.generation > before.generation:
                break
    job = await client.jobs.wait("mover", timeout_s=150)
    assert job.state == Job.SUCCEEDED, job
    assert job.generation == before.generation + 1
    # The stack's supervisor starts the agent again, so the gang may well find its place on that machine once more.
    assert job.metrics["accuracy"] >= 0.97
    steps = [point.step async for point in client.jobs.metrics("mover") if point.generation == job.generation]
    assert min(steps) > 1, "it went on from the last checkpoint, not from the beginning"
