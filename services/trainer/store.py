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


def project_checkpoints_prefix(project: str) -> str:
    """Below it lie the checkpoints of all jobs of a project."""
    return f"{ROOT}checkpoints/{project}/"


def checkpoints_prefix(name: JobName) -> str:
    """Below it lie a job's checkpoints, the newest first."""
    return f"{ROOT}checkpoints/{name.project}/{name.job}/"


def checkpoint_key(name: JobName, step: int) -> str:
    """Where a checkpoint lies: the step is stored so that the newest comes first."""
    return f"{checkpoints_prefix(name)}{999_999_999_999 - step:012d}"


def runs_prefix(name: JobName) -> str:
    """Below it lie the generations of a job that were opened, and the uid of the workload that may open them."""
    return f"{ROOT}runs/{name.project}/{name.job}/"


def run_key(name: JobName, generation: int) -> str:
    """Where it lies what a generation was opened with."""
    return f"{runs_prefix(name)}{generation:08d}"


def workload_uid_key(name: JobName) -> str:
    """Where the uid of a job's workload lies."""
    return f"{runs_prefix(name)}workload"


class JobStore(Resources[JobName, Job]):
    """Jobs, and what lies beside each."""

    def __init__(self, kv: KV) -> None:
        super().__init__(kv, Job, job_key)

    async def forget(self, name: JobName, etag: str) -> Job:
        """Deletes a job that has ended, with its checkpoints. Raises NotFound, Aborted, FailedPrecondition."""
        beside = [DeletePrefix(checkpoints_prefix(name)), DeletePrefix(runs_prefix(name))]
        return await self.delete(name, etag=etag, check=_check_ended, beside=beside)

    async def checkpoints(self, name: JobName) -> list[Checkpoint]:
        """Every committed checkpoint, newest first."""
        page = await self._kv.list(checkpoints_prefix(name))
        return [Checkpoint.FromString(entry.value) for entry in page.entries]

    async def run(self, name: JobName, generation: int) -> StartRunResponse | None:
        """What a generation was opened with; None when it was not."""
        entry = await self._kv.get(run_key(name, generation))
        return None if entry is None else StartRunResponse.FromString(entry.value)

    async def workload_uid(self, name: JobName) -> str:
        """The uid of the workload that runs a job; empty while that is not known yet."""
        entry = await self._kv.get(workload_uid_key(name))
        return "" if entry is None else entry.value.decode()


def _check_ended(job: Job) -> None:
    if job.state not in ENDED:
        raise FailedPrecondition("JOB_NOT_ENDED", job=job.name)


def uploads_prefix(project: ProjectName, whose: str, digest: str) -> str:
    """Below it lie the parts of a caller's upload, by the byte that each begins at."""
    return f"{ROOT}uploads/{project.project}/{whose}/{digest}/"
