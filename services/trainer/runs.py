"""Generations of a job: opening one fences those before it; only the newest commits checkpoints and the result."""

import json
from collections.abc import Sequence
from typing import Any, Final

from chassis.artifacts import ArtifactStore
from chassis.kv import Delete, Op, Put, absent
from chassis.resources import now
from lepton.errors import Aborted, FailedPrecondition, InvalidArgument
from lepton.internal.v1.run_report_pb2 import (
    CheckpointWritten,
    PackageWritten,
    RunCode,
    StartRunRequest,
    StartRunResponse,
)
from lepton.names import CheckpointName, JobName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.lifecycle import ENDED
from services.trainer.store import JobStore, checkpoints_prefix, runs_prefix
from services.trainer.submission import training_spec

_KEEP_LATEST: Final = 3


class Runs:
    """Opens generations and takes their commits."""

    def __init__(self, jobs: JobStore, artifacts: ArtifactStore) -> None:
        self._jobs, self._artifacts = jobs, artifacts

    async def start(self, request: StartRunRequest) -> StartRunResponse:
        """Opens a generation; every caller of one generation gets the same answer.

        Raises NotFound, FailedPrecondition (GENERATION_STALE, JOB_ENDED).
        """
        name = JobName.parse(request.job, "job")
        checkpoints = await self._jobs.checkpoints(name)
        answer = _what_to_run(await self._jobs.get(name), name, checkpoints[-1].manifest if checkpoints else "")
        key = f"{runs_prefix(name)}{request.generation:08d}"

        def open_generation(job: Job) -> None:
            _check_current(job, request.generation)
            job.generation = request.generation
            job.ClearField("error")

        def record(_job: Job) -> Sequence[Op]:
            return [Put(key, answer.SerializeToString())]

        if (opened := await self._jobs.run(name, request.generation)) is not None:
            return opened
        try:
            await self._jobs.change(name, open_generation, guard=[absent(key)], beside=record)
        except Aborted:
            # Another rank's agent opened it between our look and our write.
            if (opened := await self._jobs.run(name, request.generation)) is not None:
                return opened
            raise
        return answer

    async def commit_checkpoint(self, name: JobName, generation: int, written: CheckpointWritten) -> Checkpoint:
        """Makes a checkpoint that lies whole in the store the job's newest.

        Raises NotFound, FailedPrecondition (GENERATION_STALE, JOB_ENDED), InvalidArgument (MANIFEST_INVALID).
        """
        size = await self._check_manifest(name, written.manifest)
        checkpoint = Checkpoint(
            name=str(CheckpointName(name.project, name.job, f"{written.step:012d}")),
            step=written.step,
            manifest=written.manifest,
            generation=generation,
            metrics=written.metrics,
            size_bytes=size,
            create_time=now(),
        )
        kept = await self._jobs.checkpoints(name)

        def commit(job: Job) -> None:
            _check_current(job, generation)
            job.checkpoint = checkpoint.name
            for metric, value in written.metrics.items():
                job.metrics[metric] = value

        def store(job: Job) -> Sequence[Op]:
            keep = (job.checkpoint_policy.keep_latest or _KEEP_LATEST) - 1
            older = [one for one in kept if one.step != checkpoint.step]
            forgotten = older[: max(0, len(older) - keep)]
            prefix = checkpoints_prefix(name)
            return [
                Put(f"{prefix}{checkpoint.step:012d}", checkpoint.SerializeToString()),
                *(Delete(f"{prefix}{one.step:012d}") for one in forgotten),
            ]

        await self._jobs.change(name, commit, beside=store)
        return checkpoint

    async def commit_package(self, name: JobName, generation: int, written: PackageWritten) -> Job:
        """Makes a model package the job's result. Raises what `start` raises, InvalidArgument."""
        manifest = await self._read_json(name, written.manifest)
        for digest in manifest.get("files", {}).values():
            await self._artifacts.size(name.project, digest)

        def commit(job: Job) -> None:
            _check_current(job, generation)
            job.package = written.manifest
            for metric, value in written.metrics.items():
                job.metrics[metric] = value

        return await self._jobs.change(name, commit)

    async def _check_manifest(self, name: JobName, digest: str) -> int:
        """Every file of a checkpoint is there in its full size; the sum of the sizes."""
        manifest = await self._read_json(name, digest)
        try:
            files = [(str(file["digest"]), int(file["size"])) for file in manifest["files"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument("MANIFEST_INVALID", manifest=digest) from error
        for file, size in files:
            if await self._artifacts.size(name.project, file) != size:
                raise InvalidArgument("MANIFEST_INVALID", manifest=digest, file=file)
        return sum(size for _, size in files)

    async def _read_json(self, name: JobName, digest: str) -> dict[str, Any]:
        try:
            document = json.loads(await self._artifacts.read(name.project, digest))
        except ValueError as error:
            raise InvalidArgument("MANIFEST_INVALID", manifest=digest) from error
        if not isinstance(document, dict):
            raise InvalidArgument("MANIFEST_INVALID", manifest=digest)
        return document


def _what_to_run(job: Job, name: JobName, resume_manifest: str) -> StartRunResponse:
    if job.HasField("recipe"):
        return StartRunResponse(spec_json=training_spec(job).render().decode(), resume_manifest=resume_manifest)
    bundle = job.bundle
    return StartRunResponse(
        spec_json=json.dumps({"project": name.project, "dataset": job.dataset}),
        resume_manifest=resume_manifest,
        code=RunCode(
            digest=bundle.digest, entry_point=bundle.entry_point, argv=bundle.argv, environment=bundle.environment
        ),
    )


def _check_current(job: Job, generation: int) -> None:
    if generation < job.generation:
        raise FailedPrecondition("GENERATION_STALE", job=job.name, newest=str(job.generation))
    if job.state in ENDED:
        raise FailedPrecondition("JOB_ENDED", job=job.name)
