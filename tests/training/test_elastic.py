"""A job with room to grow, on a real control plane: it takes up what joins, gives way, and loses no sample by it."""

import pytest

from lepton.client import AsyncClient
from lepton.scheduler.v1.queue_pb2 import Queue
from tests.harness.elastic_job import Plan
from tests.harness.exactness import check
from tests.harness.mesh_job import ENDED, MeshJob
from tests.harness.training_stack import PROJECT, TrainingStack
from tests.harness.wait import until
from tests.training.conftest import References

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="module")]

LONG = Plan(last=1, samples=120, batch=12, epochs=24, every=10, pause=0.25)
SHORT = Plan(last=2, samples=60, batch=12, epochs=4, every=10, pause=0.02)


async def until_ranks(job: MeshJob, ranks: int, after: int) -> int:
    """The first generation after `after` that runs with so many ranks; one may be over before it has begun to."""

    async def found() -> bool:
        return any(job.ranks_of(each) == ranks for each in following) or (await job.get()).state in ENDED

    following = range(after + 1, after + 10)
    await until(found, 120)
    sizes = {each: job.ranks_of(each) for each in range(1, after + 10)}
    assert ranks in [sizes[each] for each in following], f"it never ran with {ranks} ranks: {sizes}"
    return next(each for each in following if sizes[each] == ranks)


async def test_a_job_grows_when_a_node_joins_and_shrinks_when_it_gives_way(
    stack: TrainingStack, client: AsyncClient, references: References
) -> None:
    quick = Queue(projects=[f"projects/{PROJECT}"], min_runtime_s=1)  # who gives way need not have run for a minute
    await client.queues.create("quick", quick)
    job = await MeshJob.submit(stack, client, "elastic", LONG, most=4)
    first = await until_ranks(job, 2, 0)  # one node has two devices
    await stack.join("n2")
    grown = await until_ranks(job, 4, first)
    urgent = await MeshJob.submit(stack, client, "urgent", SHORT, priority=10)
    shrunk = await until_ranks(job, 2, grown)
    assert (await urgent.told()).finished
    again = await until_ranks(job, 4, shrunk)
    job.hurry()
    told = await job.told()
    assert told.generations[-1] >= again
    check(told, await references.of(LONG))
    restarts = (await job.get()).restarts
    assert restarts == 0, "nothing of it has failed"
