"""Sends a script with its folder and its data, and submits the job that runs it."""

import asyncio
import tempfile
from pathlib import Path
from typing import Protocol

from lepton.bundle import Bundle
from lepton.client.artifacts import Artifacts
from lepton.script import Prepared, Script
from lepton.trainer.v1.job_pb2 import Job


class Creates(Protocol):
    """What creates jobs."""

    async def create(self, job_id: str, job: Job, *, project: str | None = None, request_id: str = "") -> Job: ...


async def submit_script(
    jobs: Creates,
    artifacts: Artifacts,
    job_id: str,
    script: Script | Prepared,
    job: Job | None,
    *,
    project: str | None,
    request_id: str,
) -> Job:
    """Upload what the store does not have yet, and create the job; `job` holds all that is not about the script."""
    prepared = script if isinstance(script, Prepared) else await asyncio.to_thread(script.prepare)
    made = Job()
    made.CopyFrom(job or Job())
    made.workers.count = made.workers.count or 1
    made.bundle.CopyFrom(prepared.code)
    made.bundle.digest = await _upload(artifacts, prepared.bundle, project)
    if prepared.data is not None:
        made.dataset = await _upload(artifacts, prepared.data, project)
    elif prepared.dataset:
        made.dataset = prepared.dataset
    return await jobs.create(job_id, made, project=project, request_id=request_id)


async def _upload(artifacts: Artifacts, content: Bundle, project: str | None) -> str:
    with tempfile.TemporaryDirectory(prefix="lepton-bundle-") as aside:
        archive = Path(aside) / "bundle.tar"
        await asyncio.to_thread(content.write, archive)
        artifact = await artifacts.upload(archive, project=project)
    return artifact.digest
