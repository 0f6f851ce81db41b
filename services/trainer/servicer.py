"""The trainer's public methods: convert in, call, convert out."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.artifacts import ArtifactStore
from chassis.callers import creator
from chassis.compliance import Compliance, asked_by
from chassis.holdings import Limits, Unlimited
from chassis.kv import KV
from chassis.paging import Pager
from chassis.requests import Claim, Requests
from chassis.resources import now
from chassis.secret_mounts import ClosedGate, SecretGate
from chassis.telemetry import traceparent
from chassis.watching import changes
from lepton.compliance.subject import Act
from lepton.compliance.subjects import of_checkpoint, of_job
from lepton.names import JobName, ProjectName, not_found
from lepton.trainer.v1 import trainer_service_pb2 as pb
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2_grpc import TrainerServiceServicer
from services.trainer.counting import devices_of
from services.trainer.endings import Endings
from services.trainer.journal import Journals
from services.trainer.journal_lines import batched, log_line, metric_point, printed_by, thinned_points
from services.trainer.lifecycle import ENDED
from services.trainer.store import (
    JOBS,
    REQUESTS,
    JobStore,
    checkpoints_prefix,
    job_key,
    jobs_prefix,
)
from services.trainer.submission import new_job


class TrainerServicer(TrainerServiceServicer):
    """Jobs, their output and their checkpoints."""

    def __init__(
        self,
        kv: KV,
        artifacts: ArtifactStore,
        journals: Journals,
        pager: Pager,
        gate: SecretGate | None = None,
        limits: Limits | None = None,
        compliance: Compliance | None = None,
    ) -> None:
        self._kv, self._artifacts, self._journals, self._pager = kv, artifacts, journals, pager
        self._gate = gate or ClosedGate()
        self._compliance = compliance or Compliance()
        self._limits = limits or Unlimited()
        self._jobs = JobStore(kv)
        self._requests = Requests(kv, REQUESTS)
        self._endings = Endings(kv)

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> Job:
        """Submits a job."""
        return await self._requests.once(request, Job, lambda claim: self._create(request, claim))

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> Job:
        """Reads a job."""
        return await self._jobs.get(JobName.parse(request.name))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        """Lists jobs."""
        listing = await self._pager.page(jobs_prefix(ProjectName.parse(request.parent, "parent")), request)
        return pb.ListJobsResponse(
            jobs=[self._jobs.of(entry) for entry in listing.entries], next_page_token=listing.next_page_token
        )

    async def WatchJobs(self, request: pb.WatchJobsRequest, context: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        """Follows jobs."""
        project = ProjectName.parse(request.parent, "parent")
        only = job_key(_job_within(project, request.name)) if request.name else ""
        async with aclosing(changes(self._kv, only or jobs_prefix(project), request.revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if only and event.key != only:
                        continue  # a job whose id begins with the one asked for
                    yield _change(
                        event.key, self._jobs.of(event.entry) if event.entry is not None else None, event.revision
                    )
                yield pb.WatchJobsResponse(event=pb.WatchJobsResponse.BOOKMARK, revision=batch.revision)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> Job:
        """Asks a job to stop."""
        return await self._jobs.change(JobName.parse(request.name), _ask_to_stop)

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Any) -> Empty:
        """Deletes a job."""
        for checkpoint in await self._jobs.checkpoints(JobName.parse(request.name)):
            self._compliance.admit(of_checkpoint(checkpoint, Act.DELETE_CHECKPOINT, asked_by()))
        job = await self._jobs.forget(JobName.parse(request.name), request.etag)
        await asyncio.to_thread(self._journals.delete, job.uid)
        return Empty()

    async def ListCheckpoints(self, request: pb.ListCheckpointsRequest, context: Any) -> pb.ListCheckpointsResponse:
        """Lists checkpoints."""
        name = JobName.parse(request.parent, "parent")
        await self._jobs.get(name)
        listing = await self._pager.page(checkpoints_prefix(name), request)
        found = [Checkpoint.FromString(entry.value) for entry in listing.entries]
        return pb.ListCheckpointsResponse(checkpoints=found, next_page_token=listing.next_page_token)

    async def StreamLogs(self, request: pb.StreamLogsRequest, context: Any) -> AsyncIterator[pb.StreamLogsResponse]:
        """Streams output."""
        is_wanted = printed_by(request.ranks)
        offset = request.offset
        if request.tail_lines:
            journal = self._journals.of((await self._jobs.get(JobName.parse(request.name))).uid)
            offset = await journal.tail(request.tail_lines, offset, is_wanted)
        async with aclosing(self._journal(request.name, offset, request.follow)) as pages:
            async for page in pages:
                lines = [line for line in map(log_line, filter(is_wanted, page)) if line is not None]
                if lines:
                    yield pb.StreamLogsResponse(lines=lines)

    async def StreamMetrics(
        self, request: pb.StreamMetricsRequest, context: Any
    ) -> AsyncIterator[pb.StreamMetricsResponse]:
        """Streams measurements."""
        offset = request.offset
        if request.max_points:
            journal = self._journals.of((await self._jobs.get(JobName.parse(request.name))).uid)
            found = await journal.measured(offset)
            offset = found[-1].offset if found else offset
            for some in batched(thinned_points(found, request.max_points)):
                yield pb.StreamMetricsResponse(points=some)
        async with aclosing(self._journal(request.name, offset, request.follow)) as pages:
            async for page in pages:
                points = [point for point in map(metric_point, page) if point is not None]
                if points:
                    yield pb.StreamMetricsResponse(points=points)

    async def _create(self, request: pb.CreateJobRequest, claim: Claim) -> Job | None:
        job = new_job(request, traceparent(), now())
        self._compliance.admit(of_job(job, asked_by()))
        project = ProjectName.parse(request.parent, "parent").project
        await self._gate.admit(job.secrets, project, "job.secrets", job.bundle.environment)
        for digest in (job.dataset, job.bundle.digest):
            if digest:
                await self._artifacts.size(project, digest)  # NotFound before anything is written
        job.creator = creator()
        async with self._limits.admit(job.creator, devices_of(job)) as admitted:
            return await self._jobs.create(
                JobName.parse(job.name), job, claim, guard=admitted.guard, beside=admitted.ops
            )

    async def _journal(self, text: str, offset: int, follow: bool) -> AsyncGenerator[list[dict[str, Any]], None]:
        job = await self._jobs.get(JobName.parse(text))
        journal, ended = self._journals.of(job.uid), asyncio.Event()
        watching = asyncio.create_task(self._endings.of(job, journal)) if follow else asyncio.create_task(_at_once())
        watching.add_done_callback(lambda _: ended.set())  # also when it fails: a stream must end
        try:
            async with aclosing(journal.follow(offset, ended)) as pages:
                async for page in pages:
                    yield page
            await watching
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _at_once() -> None:
    """Nothing is waited for."""


def _ask_to_stop(job: Job) -> None:
    if job.state not in ENDED and job.state != Job.CANCELLING:
        job.state = Job.CANCELLING
        job.message = "being stopped on request"


def _job_within(project: ProjectName, text: str) -> JobName:
    name = JobName.parse(text)
    if name.project != project.project:
        raise not_found(name)
    return name


def _change(key: str, job: Job | None, revision: int) -> pb.WatchJobsResponse:
    if job is not None:
        return pb.WatchJobsResponse(event=pb.WatchJobsResponse.CHANGED, job=job, revision=revision)
    project, _, job_id = key.removeprefix(JOBS).partition("/")
    gone = Job(name=str(JobName(project, job_id)))
    return pb.WatchJobsResponse(event=pb.WatchJobsResponse.DELETED, job=gone, revision=revision)
