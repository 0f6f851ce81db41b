"""What the scheduler is told of a job that runs: its newest checkpoint, and how fast it is with so many ranks.

It decides by this whom it costs the least to stop, and to whom one more rank brings the most.
"""

from typing import Final, Protocol

from chassis.clock import Clock
from chassis.logs import logger
from lepton.errors import LeptonError
from lepton.names import JobName
from lepton.scheduler.v1.scheduler_service_pb2 import ReportWorkloadProgressRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.store import JobStore

log = logger(__name__)
EVERY_S: Final = 10.0  # a job measures far more often than its speed changes


class Told(Protocol):
    """Who is told."""

    async def report_progress(self, request: ReportWorkloadProgressRequest) -> None:
        """Takes a report."""
        ...


def report_of(job: Job, workload: Workload, newest: Checkpoint | None) -> ReportWorkloadProgressRequest | None:
    """What there is to tell of a job; None when that is nothing."""
    if job.state != Job.RUNNING or workload.state != Workload.RUNNING or job.generation != workload.generation:
        return None
    report = ReportWorkloadProgressRequest(
        name=workload.name, generation=workload.generation, samples_per_s=job.progress.samples_per_s
    )
    if newest is not None:
        report.checkpoint_time.CopyFrom(newest.create_time)
    return report if report.samples_per_s or newest is not None else None


class ProgressReports:
    """Tells what is new about each job, each every ten seconds at the most."""

    def __init__(self, jobs: JobStore, told: Told, clock: Clock) -> None:
        self._jobs, self._told, self._clock = jobs, told, clock
        self._last: dict[str, tuple[float, ReportWorkloadProgressRequest]] = {}

    async def tell(self, job: Job, workload: Workload) -> None:
        """Tell how a job gets on. What cannot be told now is told with its next measurement."""
        now = self._clock.monotonic()
        at, before = self._last.get(workload.name, (now - EVERY_S, None))
        if now - at < EVERY_S or job.state != Job.RUNNING:
            return
        newest = (await self._jobs.checkpoints(JobName.parse(job.name)))[:1] if job.checkpoint else []
        report = report_of(job, workload, newest[0] if newest else None)
        if report is None or report == before:
            return
        self._last[workload.name] = (now, report)
        try:
            await self._told.report_progress(report)
        except LeptonError as error:
            log.info("progress not told", job=job.name, reason=error.reason)

    def forget(self, workload: str) -> None:
        """It runs no more."""
        self._last.pop(workload, None)
