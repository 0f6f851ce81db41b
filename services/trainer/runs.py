"""Generations of a job: opening one fences those before it, so that only the newest commits."""

from collections.abc import Sequence
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.kv import Op, Put, absent
from lepton.errors import Aborted, FailedPrecondition, InvalidArgument, Unavailable
from lepton.internal.v1.run_report_pb2 import (
    CheckpointWritten,
    PackageWritten,
    StartRunRequest,
    StartRunResponse,
)
from lepton.names import JobName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.commits import checkpoint_of, is_repeat, note_metrics, note_written, retention
from services.trainer.lifecycle import ENDED
from services.trainer.manifests import check_package, checkpoint_size
from services.trainer.store import JobStore, checkpoint_key, run_key
from services.trainer.submission import what_to_run

_ATTEMPTS: Final = 64


class Runs:
    """Opens generations and takes their commits."""

    def __init__(self, jobs: JobStore, artifacts: ArtifactStore) -> None:
        self._jobs, self._artifacts = jobs, artifacts

    async def start(self, request: StartRunRequest) -> StartRunResponse:
        """Opens a generation; every caller of one generation gets the same answer.

        Raises NotFound, InvalidArgument, FailedPrecondition (GENERATION_STALE, JOB_ENDED), Unavailable.
        """
        name = JobName.parse(request.job, "job")
        if request.generation < 1:
            raise InvalidArgument("INVALID_FIELD", fields={"generation": "must be 1 or more"})
        for _ in range(_ATTEMPTS):
            job = await self._jobs.get(name)
            check_current(job, request.generation)
            await self._check_workload(name, request)
            if (opened := await self._jobs.run(name, request.generation)) is not None:
                return opened
            try:
                return await self._open(job, request.generation)
            except Aborted:
                continue  # another rank's agent opens it too, or the generation before it has just committed
        raise Aborted("WRITE_CONFLICT", name=request.job)

    async def commit_checkpoint(self, name: JobName, generation: int, written: CheckpointWritten) -> None:
        """Makes a checkpoint that lies whole in the store the job's newest. Repeated, it changes nothing.

        Raises NotFound, FailedPrecondition (GENERATION_STALE, JOB_ENDED), InvalidArgument (MANIFEST_INVALID).
        """
        check_current(await self._jobs.get(name), generation)
        size = await checkpoint_size(self._artifacts, name.project, written.manifest)
        checkpoint = checkpoint_of(name, generation, written, size)
        for _ in range(_ATTEMPTS):
            job = await self._jobs.get(name)
            kept = await self._jobs.checkpoints(name)
            check_current(job, generation)
            if is_repeat(kept[0] if kept else None, generation, written):
                return
            try:
                await self._commit(name, job, checkpoint, kept)
            except Aborted:
                continue
            return
        raise Aborted("WRITE_CONFLICT", name=str(name))

    async def commit_package(self, name: JobName, generation: int, written: PackageWritten) -> None:
        """Makes a model package the job's result. Raises what `commit_checkpoint` raises."""
        check_current(await self._jobs.get(name), generation)
        await check_package(self._artifacts, name.project, written.manifest)

        def commit(job: Job) -> None:
            check_current(job, generation)
            job.package = written.manifest
            note_metrics(job, written.metrics)

        await self._jobs.change(name, commit)

    async def _open(self, job: Job, generation: int) -> StartRunResponse:
        name = JobName.parse(job.name)
        kept = await self._jobs.checkpoints(name)
        manifests = [checkpoint.manifest for checkpoint in kept]
        answer = what_to_run(job, manifests[0] if manifests else "", manifests[1:])
        key = run_key(name, generation)

        def open_generation(current: Job) -> None:
            current.generation = generation
            current.ClearField("error")
            current.progress.samples_per_s = 0.0  # it may be of another size now
            # What was done after the checkpoint is done again.
            current.progress.step = min(current.progress.step, kept[0].step if kept else 0)

        def record(_job: Job) -> Sequence[Op]:
            return [Put(key, answer.SerializeToString())]

        # With its etag: nothing was committed since the checkpoints were read.
        await self._jobs.change(name, open_generation, etag=job.etag, guard=[absent(key)], beside=record)
        return answer

    async def _commit(self, name: JobName, job: Job, checkpoint: Checkpoint, kept: Sequence[Checkpoint]) -> None:
        def commit(current: Job) -> None:
            current.checkpoint = checkpoint.name
            note_written(current)
            note_metrics(current, checkpoint.metrics)

        def store(current: Job) -> Sequence[Op]:
            put = Put(checkpoint_key(name, checkpoint.step), checkpoint.SerializeToString())
            return [put, *retention(name, current, checkpoint, kept)]

        await self._jobs.change(name, commit, etag=job.etag, beside=store)

    async def _check_workload(self, name: JobName, request: StartRunRequest) -> None:
        """Only the job's own workload runs it: any operator of any project may create one that names it."""
        uid = await self._jobs.workload_uid(name)
        if not uid:
            raise Unavailable("RUN_NOT_READY", retry_after_s=0.1, job=request.job)
        if uid != request.workload_uid:
            raise FailedPrecondition("NOT_THE_WORKLOAD", job=request.job, workload_uid=request.workload_uid)


def check_current(job: Job, generation: int) -> None:
    """Raises FailedPrecondition when a newer generation is open, or the job is over."""
    if generation < job.generation:
        raise FailedPrecondition("GENERATION_STALE", job=job.name, newest=str(job.generation))
    if job.state in ENDED:
        raise FailedPrecondition("JOB_ENDED", job=job.name)
