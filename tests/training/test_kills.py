"""kill -9 at any moment of a real job: it finishes all the same, exactly, and what it has saved can be read."""

import random

import psutil
import pytest
import pytest_asyncio

from lepton.client import AsyncClient
from tests.harness.elastic_job import Plan
from tests.harness.exactness import check
from tests.harness.mesh_job import ENDED, MeshJob, load
from tests.harness.seeds import some_seed
from tests.harness.training_stack import TrainingStack
from tests.harness.wait import until
from tests.training.conftest import References

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

SEED = some_seed()
# Checkpoints of 4 MB, so that some time is spent in writing them.
PLAN = Plan(last=2, samples=96, batch=12, epochs=6, every=3, ballast=4 << 20, pause=0.05)
STEPS = 48
VICTIMS = ("rank", "rank", "launcher", "agent", "trainer", "scheduler", "writer", "writer", "store")
"""A writer is whoever is writing a checkpoint: its rank, as soon as it has begun."""


class Killer:
    """Kills one thing of a job at a moment of its choice."""

    def __init__(self, stack: TrainingStack, job: MeshJob, chance: random.Random) -> None:
        self._stack, self._job, self._chance = stack, job, chance
        self.killed: list[str] = []

    async def strike(self, victim: str) -> bool:
        """Whether the job was still there to be struck."""
        await self._job.made(self._job.steps() + self._chance.randint(1, 6))
        if (await self._job.get()).state in ENDED:
            return False
        if victim == "writer":
            begun = self._job.checkpoints_begun()
            await until(lambda: self._job.checkpoints_begun() > begun or not self._ranks(), 60)
        where = "n1" if victim != "agent" else self._chance.choice(["n1", "n2"])
        self.killed.append(f"{victim} after {self._job.steps()} steps")
        if victim in ("rank", "writer"):
            _kill(self._chance.choice(self._ranks() or [None]))
        elif victim == "store":
            stores = [each for node in ("n1", "n2") for each in self._stack.stores(node)]
            _kill(self._chance.choice(stores or [None]))
        elif victim == "launcher":
            _kill(self._stack.launcher(self._chance.choice(["n1", "n2"])))
        else:
            self._stack.kill(f"agent-{where}" if victim == "agent" else victim)
        return True

    def _ranks(self) -> list[psutil.Process]:
        try:
            return [each for node in ("n1", "n2") for each in self._stack.ranks(node)]
        except psutil.NoSuchProcess:  # it ended while it was looked at
            return []


def _kill(process: psutil.Process | None) -> None:
    if process is not None:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            return


async def survive(
    stack: TrainingStack, client: AsyncClient, references: References, job_id: str, victims: list[str], seed: int
) -> int:
    """One job under these kills; how many of them it got."""
    job = await MeshJob.submit(stack, client, job_id, PLAN)
    killer = Killer(stack, job, random.Random(seed))
    for victim in victims:
        if not await killer.strike(victim):
            break
    print(f"LEPTON_SEED={SEED} {job_id}: {killer.killed}")
    job.hurry()
    told = await job.told()
    newest = load(told.store, told.accepted[-1][2])
    assert newest.position.step == STEPS
    check(told, await references.of(PLAN))
    return len(killer.killed)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def second_node(stack: TrainingStack) -> None:
    await stack.join("n2", devices=1)


@pytest.mark.slow
async def test_a_job_survives_kills_of_all_that_runs_it(
    stack: TrainingStack, client: AsyncClient, references: References
) -> None:
    victims = ["writer", "store", "agent", "trainer", "rank"]
    await survive(stack, client, references, "quick", victims, SEED)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_jobs_survive_fifty_kills(stack: TrainingStack, client: AsyncClient, references: References) -> None:
    chance, kills, jobs = random.Random(SEED), 0, 0
    while kills < 50:
        victims = chance.choices(VICTIMS, k=4)
        kills += await survive(stack, client, references, f"many-{jobs}", victims, chance.randrange(2**32))
        jobs += 1
        assert jobs < 100, "the jobs end before they can be killed"
