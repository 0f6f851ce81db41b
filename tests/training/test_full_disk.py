"""A disk that fills up while a job saves: what was saved before stands and can be read, and the job says why."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from lepton.trainer.v1.job_pb2 import Job
from tests.harness.elastic_job import Plan
from tests.harness.mesh_job import MeshJob, load
from tests.harness.sealed_store import sealed_store
from tests.harness.training_stack import PROJECT, TrainingStack

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

# Every checkpoint is 6 MB and all are kept: the disk holds three or four of them.
PLAN = Plan(last=2, samples=60, batch=12, epochs=6, every=3, ballast=6 << 20)
DISK = "size=24m"


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose artifacts lie on a small disk of their own."""
    home = tmp_path_factory.mktemp("small") / "home"
    disk = home / "artifacts"
    disk.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root; the limit on file sizes is tested in tests/sdk")
    yield home
    subprocess.run(["umount", "-l", disk], check=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(small_disk: Path) -> AsyncIterator[TrainingStack]:
    async with TrainingStack(small_disk) as opened:
        await opened.join("n1")
        yield opened


async def test_a_full_disk_leaves_the_old_checkpoints_and_the_job_says_so(stack: TrainingStack) -> None:
    async with stack.client() as client:
        job = await MeshJob.submit(stack, client, "full", PLAN, max_restarts=1)
        ended = await client.jobs.wait("full", timeout_s=120)
        assert ended.state == Job.FAILED
        said = [line.text async for line in client.jobs.logs("full")]
        assert any("No space left on device" in text for text in said), said[-20:]
        told = f"{ended.message} {ended.error.message} {ended.error.advice}"
        assert "space" in told, ended
        kept = [each async for each in client.jobs.checkpoints("full")]
        assert kept, "the first ones fit"
        store = await sealed_store(stack.home, PROJECT)
        for each in kept:
            assert load(store, each.manifest).position.step == each.step
        assert job.steps() >= kept[0].step
