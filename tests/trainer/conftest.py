"""A trainer's world: its state, its files, a scheduler whose leader is the test, and reconcilers to start and kill."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from chassis.artifacts import ArtifactStore
from chassis.election import Election
from chassis.ledger import Ledger
from chassis.resources import now
from lepton.internal.v1 import run_report_pb2 as report
from lepton.names import JobName
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers
from lepton.trainer.v1.trainer_service_pb2 import CreateJobRequest
from services.trainer.journal import Journals
from services.trainer.reconciler import Reconciler
from services.trainer.reports import RunReportServicer
from services.trainer.runs import Runs
from services.trainer.store import LEADER, JobStore, job_key, workload_uid_key
from services.trainer.submission import new_job
from services.trainer.workload import workload_name
from tests.harness.crashes import Crash, MortalKV, MortalLedger, Steps
from tests.harness.ledger import ScriptedLedger, scripted, scripted_ledger
from tests.harness.memory_kv import MemoryKV
from tests.harness.shown import shown

DATASET = "sha256:" + "d" * 64


@dataclass(slots=True)
class World:
    """What a trainer's test holds."""

    kv: Any  # a MemoryKV, or an EtcdKV
    scheduler: ScriptedLedger
    ledger: Ledger
    artifacts: ArtifactStore
    journals: Journals

    @property
    def jobs(self) -> JobStore:
        return JobStore(self.kv)

    @property
    def runs(self) -> Runs:
        return Runs(self.jobs, self.artifacts)

    @property
    def reports(self) -> RunReportServicer:
        return RunReportServicer(self.jobs, self.runs, self.journals)

    async def submit(self, job_id: str = "digits", **fields: Any) -> Job:
        """A stored job, as CreateJob leaves it."""
        job = new_job(job_request(job_id, **fields), "", now())
        created = await self.jobs.create(JobName.parse(job.name), job)
        assert created is not None
        return created

    async def opened(self, job: Job, generation: int = 1) -> report.StartRunResponse:
        """Opens a generation, as the job's agents do."""
        name = JobName.parse(job.name)
        await self.kv.put(workload_uid_key(name), b"w-uid")
        return await self.runs.start(start_request(job, generation))

    async def job(self, job: Job, condition: Callable[[Job], object]) -> Job:
        """The job as soon as it is as wished."""
        key = job_key(JobName.parse(job.name))
        found: Job = await shown(self.kv, key, Job, lambda current: current is not None and condition(current))
        return found

    async def in_state(self, job: Job, state: Any) -> Job:
        return await self.job(job, lambda current: current.state == state)

    def reconciler(self, candidate: str = "t1", steps: Steps | None = None) -> Reconciler:
        election = Election(self.kv, LEADER, candidate)
        if steps is None:
            return Reconciler(self.kv, election, self.ledger)
        return Reconciler(MortalKV(self.kv, steps), election, MortalLedger(self.ledger, steps))

    @asynccontextmanager
    async def reconciling(self, candidate: str = "t1") -> AsyncIterator["asyncio.Task[None]"]:
        """A trainer runs."""
        task = asyncio.create_task(self.reconciler(candidate).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def killed_at(self, steps: Steps, until: Callable[[], Any]) -> bool:
        """Runs a trainer until the step that kills it, or until the condition; whether it was killed."""
        running = asyncio.create_task(self.reconciler(steps=steps).run())
        reached = asyncio.ensure_future(until())
        try:
            await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reached.cancel()
            running.cancel()
            outcome = (await asyncio.gather(running, reached, return_exceptions=True))[0]
        if isinstance(outcome, BaseExceptionGroup):
            assert outcome.subgroup(Crash) is not None, outcome
            return True
        assert isinstance(outcome, asyncio.CancelledError), outcome
        return False


def job_request(job_id: str = "digits", parent: str = "projects/acme", **fields: Any) -> CreateJobRequest:
    given = {"recipe": Recipe(name="image_classifier", epochs=2), "dataset": DATASET, "workers": Workers(count=2)}
    if "bundle" in fields:
        del given["recipe"]
    return CreateJobRequest(parent=parent, job_id=job_id, job=Job(**{**given, **fields}), request_id=str(uuid.uuid4()))


def start_request(job: Job, generation: int = 1, workload_uid: str = "w-uid") -> report.StartRunRequest:
    return report.StartRunRequest(job=job.name, generation=generation, workload_uid=workload_uid, world_size=2)


def workload_of(job: Job) -> str:
    return str(workload_name(job))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A trainer's world whose scheduler nobody reaches."""
    async with MemoryKV() as kv, aio.insecure_channel("127.0.0.1:1") as channel:
        scheduler = await scripted(kv)
        yield _world(tmp_path, kv, scheduler, Ledger(channel))


@pytest.fixture
async def scheduled_world(tmp_path: Path) -> AsyncIterator[World]:
    """A trainer's world with its scheduler on a real server."""
    async with MemoryKV() as kv, scripted_ledger("trainer") as (scheduler, ledger):
        yield _world(tmp_path, kv, scheduler, ledger)


def _world(folder: Path, kv: MemoryKV, scheduler: ScriptedLedger, ledger: Ledger) -> World:
    artifacts = ArtifactStore(f"file://{folder}/artifacts")
    return World(kv, scheduler, ledger, artifacts, Journals(folder / "journals"))
