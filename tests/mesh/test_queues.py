"""A project's quota on a whole stack: a job waits for it, is told why, and runs with real ranks once it is raised."""

import asyncio

import pytest

from lepton.client import AsyncClient
from lepton.scheduler.v1.queue_pb2 import Queue, Quota
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job
from tests.mesh.conftest import PROJECT, digits_job

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="function"),
]


async def waiting(client: AsyncClient, job_id: str, reason: int) -> Workload:
    """The workload of a job as soon as it waits for this reason."""
    async with asyncio.timeout(60):
        async for change in client.workloads.watch_all():
            seen = change.resource
            if seen.owner == f"projects/{PROJECT}/jobs/{job_id}" and seen.pending_reason == reason:
                return seen
    raise AssertionError("a watch has no end")


async def test_a_job_over_its_projects_quota_waits_until_that_is_raised(client: AsyncClient) -> None:
    quota = Quota(resource="device_milli", nominal=1000)
    queue = await client.queues.create("small", Queue(quotas=[quota], projects=[f"projects/{PROJECT}"]))
    await client.jobs.create("over", await digits_job(client, epochs=2, workers=2))
    held = await waiting(client, "over", Workload.EXCEEDS_MAX_QUOTA)
    told = await client.explain.why(held.name)
    assert [(each.queue, each.resource, each.needed, each.available) for each in told.gaps] == [
        (queue.name, "device_milli", 2000, 1000)
    ]
    queue.quotas[0].nominal, queue.stop_policy, queue.etag = 2000, Queue.HOLD, ""
    await client.queues.update(queue, ["quotas", "stop_policy"])
    await waiting(client, "over", Workload.ON_HOLD)
    queue.stop_policy = Queue.STOP_POLICY_UNSPECIFIED
    await client.queues.update(queue, ["stop_policy"])
    job = await client.jobs.wait("over", timeout_s=120)
    assert (job.state, job.generation) == (Job.SUCCEEDED, 1), job.message
    shown = await client.queues.get("small")
    assert (shown.pending_count, shown.admitted_count, shown.use[0].used) == (0, 0, 0)
