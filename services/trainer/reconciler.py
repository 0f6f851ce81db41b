"""Gives every job its workload, and every job the state that its workload shows."""

from typing import Final, Protocol

from chassis.controller import Controller, WorkloadFeed
from chassis.election import Election
from chassis.kv import KV, Compare, Entry
from chassis.logs import logger
from chassis.resources import now
from chassis.telemetry import span
from lepton.names import JobName
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.lifecycle import ENDED, observe
from services.trainer.store import JOBS, JobStore
from services.trainer.workload import workload_name, workload_request

log = logger(__name__)
_ENDING: Final = frozenset({Workload.CANCELLING, Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})


class Workloads(WorkloadFeed, Protocol):
    """What the reconciler needs of the scheduler."""

    async def create(self, request: CreateWorkloadRequest) -> Workload:
        """Creates a workload; a repeat of the request gets the first answer."""
        ...

    async def cancel(self, name: str) -> None:
        """Stops a workload."""
        ...


class Reconciler:
    """Acts on jobs as long as it leads."""

    def __init__(self, kv: KV, election: Election, workloads: Workloads) -> None:
        self._workloads = workloads
        self._jobs = JobStore(kv)
        self._controller = Controller(kv, election, workloads, prefix=JOBS, name_of=_name_of, reconcile=self._reconcile)

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        await self._controller.run()

    async def _reconcile(self, _name: str, entry: Entry | None, guard: Compare) -> None:
        job = None if entry is None else self._jobs.of(entry)
        if job is None or job.state in ENDED:
            return
        workload = self._controller.workload(str(workload_name(job)))
        if workload is None and (job.workload or job.state == Job.CANCELLING):
            await self._end_without_workload(job, guard)
            return
        if workload is None:
            workload = await self._create(job)
        if job.state == Job.CANCELLING and workload.state not in _ENDING:
            await self._workloads.cancel(workload.name)
        await self._note(job, workload, guard)

    async def _create(self, job: Job) -> Workload:
        # A leader before us may have created it and died: the same request_id gets the same answer.
        with span("trainer.create_workload", parent=job.trace_context, job=job.name):
            workload = await self._workloads.create(workload_request(job))
        log.info("workload created", job=job.name, workload=workload.name)
        return self._controller.remember(workload)

    async def _note(self, job: Job, workload: Workload, guard: Compare) -> None:
        stamp = now()
        name = JobName.parse(job.name)
        changed = await self._jobs.change(name, lambda current: observe(current, workload, stamp), guard=[guard])
        if changed.state != job.state:
            log.info("job changed", job=job.name, state=Job.State.Name(changed.state))

    async def _end_without_workload(self, job: Job, guard: Compare) -> None:
        """Ends a job that was cancelled before it had a workload, or whose workload an operator has deleted."""

        def end(current: Job) -> None:
            if current.state not in ENDED:
                current.state = Job.CANCELLED if current.state == Job.CANCELLING else Job.FAILED
                stopped = current.state == Job.CANCELLED
                current.message = "stopped on request" if stopped else "its workload was deleted"
                current.end_time.CopyFrom(now())

        await self._jobs.change(JobName.parse(job.name), end, guard=[guard])


def _name_of(key: str) -> str:
    project, _, job = key.removeprefix(JOBS).partition("/")
    return f"projects/{project}/jobs/{job}"
