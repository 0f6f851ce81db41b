"""Where the trainer keeps jobs, checkpoints and generations in the key-value state."""

from typing import Final

from chassis.kv import KV, DeletePrefix
from chassis.resources import Resources
from lepton.errors import FailedPrecondition
from lepton.internal.v1.run_report_pb2 import StartRunResponse
from lepton.names import JobName, ProjectName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.lifecycle import ENDED

ROOT: Final = "/lepton/trainer/"
JOBS: Final = f"{ROOT}jobs/"
REQUESTS: Final = f"{ROOT}requests/"
LEADER: Final = f"{ROOT}leader"
PAGE_KEY: Final = f"{ROOT}page_key"


def jobs_prefix(project: ProjectName) -> str:
    """Below it lie a project's jobs."""
    return f"{JOBS}{project.project}/"


def job_key(name: JobName) -> str:
    """Where a job lies."""
    return f"{JOBS}{name.project}/{name.job}"


def checkpoints_prefix(name: JobName) -> str:
    """Below it lie a job's checkpoints by step."""
    return f"{ROOT}checkpoints/{name.project}/{name.job}/"


def runs_prefix(name: JobName) -> str:
    """Below it lie the generations of a job that were opened."""
    return f"{ROOT}runs/{name.project}/{name.job}/"


class JobStore(Resources[JobName, Job]):
    """Jobs, and what lies beside each."""

    def __init__(self, kv: KV) -> None:
        super().__init__(kv, Job, job_key)

    async def forget(self, name: JobName, etag: str) -> Job:
        """Deletes a job that has ended, with its checkpoints. Raises NotFound, Aborted, FailedPrecondition."""
        beside = [DeletePrefix(checkpoints_prefix(name)), DeletePrefix(runs_prefix(name))]
        return await self.delete(name, etag=etag, check=_check_ended, beside=beside)

    async def checkpoints(self, name: JobName) -> list[Checkpoint]:
        """Every committed checkpoint, oldest first."""
        page = await self._kv.list(checkpoints_prefix(name))
        return [Checkpoint.FromString(entry.value) for entry in page.entries]

    async def run(self, name: JobName, generation: int) -> StartRunResponse | None:
        """What a generation was opened with; None when it was not."""
        entry = await self._kv.get(f"{runs_prefix(name)}{generation:08d}")
        return None if entry is None else StartRunResponse.FromString(entry.value)


def _check_ended(job: Job) -> None:
    if job.state not in ENDED:
        raise FailedPrecondition("JOB_NOT_ENDED", job=job.name)
