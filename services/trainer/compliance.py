"""What the trainer holds, as compliance looks at it again and again: jobs, checkpoints, artifacts."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime

from chassis.artifacts import ArtifactStore
from chassis.kv import KV, Delete, list_all, mod
from chassis.logs import logger
from lepton.compliance.rulebook import Violation
from lepton.compliance.rules import artifact_name
from lepton.compliance.subject import Act, Subject
from lepton.compliance.subjects import of_checkpoint, of_job
from lepton.errors import InvalidArgument, NotFound
from lepton.names import CheckpointName, JobName, ProjectName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.lifecycle import ENDED
from services.trainer.store import JOBS, JobStore, checkpoints_prefix, jobs_prefix, project_checkpoints_prefix

log = logger(__name__)


class JobInspector:
    """Jobs that have not ended, every checkpoint, every artifact."""

    def __init__(self, kv: KV, artifacts: ArtifactStore) -> None:
        self._kv, self._artifacts = kv, artifacts
        self._jobs = JobStore(kv)

    async def projects(self) -> Iterable[str]:
        """Those that have jobs or artifacts."""
        page = await list_all(self._kv, JOBS)
        ids = {entry.key.removeprefix(JOBS).partition("/")[0] for entry in page.entries}
        ids |= set(await self._artifacts.projects())
        return [f"projects/{project}" for project in ids if _is_project(project)]

    async def subjects(self, project: str) -> AsyncIterator[Subject]:
        """All that is to be judged."""
        name = ProjectName.parse(project)
        for entry in (await list_all(self._kv, jobs_prefix(name))).entries:
            job = self._jobs.of(entry)
            if job.state not in ENDED:
                yield of_job(job)
        for entry in (await list_all(self._kv, project_checkpoints_prefix(name.project))).entries:
            yield of_checkpoint(Checkpoint.FromString(entry.value))
        for digest, listed in await self._artifacts.listing(name.project, area=""):
            yield Subject(
                act=Act.KEEP_ARTIFACT,
                resource=artifact_name(project, digest),
                created=datetime.fromtimestamp(listed.modified, UTC),
                digests=(digest,),
            )

    async def quarantine(self, violation: Violation) -> bool:
        """Stop a job; delete a checkpoint that is too old, unless its job would go on from it."""
        if violation.subject.act is Act.JOB:
            return await self._stop(violation)
        if violation.subject.act is Act.KEEP_CHECKPOINT:
            return await self._drop(CheckpointName.parse(violation.subject.resource))
        return False

    async def settle(self, project: str, standing: Sequence[Violation]) -> None:
        """A job that was stopped stays stopped."""

    async def _stop(self, violation: Violation) -> bool:
        why = f"stopped by {violation.policy.name} (rule {violation.rule.id}): {violation.fault.problem}"

        def stop(job: Job) -> None:
            if job.state not in ENDED and job.state != Job.CANCELLING:
                job.state, job.message = Job.CANCELLING, why[:1000]

        try:
            await self._jobs.change(JobName.parse(violation.subject.resource), stop)
        except NotFound:
            return False  # it was deleted meanwhile
        log.warning("job stopped by compliance", job=violation.subject.resource, policy=violation.policy.name)
        return True

    async def _drop(self, name: CheckpointName) -> bool:
        job = await self._jobs.find(name.parent)
        if job is not None and job.state not in ENDED and job.checkpoint == str(name):
            return False
        for entry in (await list_all(self._kv, checkpoints_prefix(name.parent))).entries:
            if Checkpoint.FromString(entry.value).name == str(name):
                # Its files go when the collector finds that no checkpoint lists them.
                done = await self._kv.txn([mod(entry.key, entry.mod_revision)], [Delete(entry.key)])
                log.warning("checkpoint deleted by compliance", checkpoint=str(name), done=done.succeeded)
                return done.succeeded
        return False


def _is_project(name: str) -> bool:
    try:
        ProjectName(project=name)
    except InvalidArgument:
        return False
    return True
