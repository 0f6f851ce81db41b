"""Gives every job its workload, and every job the state that its workload shows."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from chassis.clock import Clock, SystemClock
from chassis.controller import Controller, WorkloadFeed
from chassis.election import Election
from chassis.kv import KV, Compare, Entry, Op, Put
from chassis.logs import logger
from chassis.resources import now
from chassis.telemetry import span
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.names import JobName
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.lifecycle import ENDED, end_without_workload, observe, refuse
from services.trainer.progress import ProgressReports, Told
from services.trainer.store import JOBS, JobStore, workload_uid_key
from services.trainer.workload import workload_name, workload_request

log = logger(__name__)
_OVER: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})
_ENDING: Final = _OVER | {Workload.CANCELLING}


class Workloads(WorkloadFeed, Told, Protocol):
    """What the reconciler needs of the scheduler."""

    async def create(self, request: CreateWorkloadRequest) -> Workload | None:
        """Creates a workload, or finds what has become of it: None when it is deleted already."""
        ...

    async def cancel(self, name: str) -> None:
        """Stops a workload."""
        ...

    async def delete(self, name: str) -> None:
        """Deletes a workload that has ended."""
        ...


class Reconciler:
    """Acts on jobs as long as it leads."""

    def __init__(self, kv: KV, election: Election, workloads: Workloads, clock: Clock | None = None) -> None:
        self._workloads = workloads
        self._jobs = JobStore(kv)
        self._progress = ProgressReports(self._jobs, workloads, clock or SystemClock())
        self._controller = Controller(
            kv, election, workloads, prefix=JOBS, name_of=_name_of, owns=_is_job, reconcile=self._reconcile
        )

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        await self._controller.run()

    async def _reconcile(self, name: str, entry: Entry | None, guard: Compare) -> None:
        job = None if entry is None else self._jobs.of(entry)
        own = "" if job is None else str(workload_name(job))
        await self._sweep(name, keep=own, stop=own if job is not None and job.state in ENDED else "")
        if job is not None and job.state not in ENDED:
            await self._run(job, guard)

    async def _run(self, job: Job, guard: Compare) -> None:
        workload = self._controller.workload(str(workload_name(job)))
        if workload is None and not job.workload and job.state != Job.CANCELLING:
            try:
                workload = await self._create(job)
            except InvalidArgument as error:
                problem = str(error)
                await self._end(job, lambda current: refuse(current, problem, now()), guard)
                return
        if workload is None:
            await self._end(job, lambda current: end_without_workload(current, now()), guard)
            return
        if job.state == Job.CANCELLING and workload.state not in _ENDING:
            await self._workloads.cancel(workload.name)
        await self._note(job, workload, guard)
        if workload.state in _OVER:
            self._progress.forget(workload.name)
        else:
            await self._progress.tell(job, workload)

    async def _create(self, job: Job) -> Workload | None:
        # A leader before us may have created it and died: the same request_id gets the same workload.
        with span("trainer.create_workload", parent=job.trace_context, job=job.name):
            workload = await self._workloads.create(workload_request(job))
        if workload is None:
            return None
        log.info("workload created", job=job.name, workload=workload.name)
        return self._controller.remember(workload)

    async def _note(self, job: Job, workload: Workload, guard: Compare) -> None:
        stamp = now()
        name = JobName.parse(job.name)

        def beside(_job: Job) -> Sequence[Op]:
            return () if job.workload else (Put(workload_uid_key(name), workload.uid.encode()),)

        changed = await self._jobs.change(
            name, lambda current: observe(current, workload, stamp), guard=[guard], beside=beside
        )
        if changed.state != job.state:
            log.info("job changed", job=job.name, state=Job.State.Name(changed.state))

    async def _end(self, job: Job, end: Callable[[Job], None], guard: Compare) -> None:
        changed = await self._jobs.change(JobName.parse(job.name), end, guard=[guard])
        log.info("job ended", job=job.name, state=Job.State.Name(changed.state), why=changed.message)

    async def _sweep(self, name: str, *, keep: str, stop: str) -> None:
        """Stops what should not run for a job (a leader that had lost its place may have created it), and deletes
        what a deleted job has left."""
        for workload in self._controller.owned(name):
            if workload.kind != Workload.TRAINING:
                continue
            try:
                if workload.state not in _ENDING and (workload.name != keep or workload.name == stop):
                    await self._workloads.cancel(workload.name)
                elif workload.state in _OVER and workload.name != keep:
                    await self._workloads.delete(workload.name)
            except (NotFound, FailedPrecondition) as error:
                log.info("workload ends by itself", workload=workload.name, reason=error.reason)


def _name_of(key: str) -> str:
    project, _, job = key.removeprefix(JOBS).partition("/")
    return str(JobName(project, job))


def _is_job(name: str) -> bool:
    try:
        JobName.parse(name)
    except InvalidArgument:
        return False
    return True
