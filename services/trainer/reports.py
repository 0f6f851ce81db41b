"""Receives what the agents report of the ranks: journals it, commits, keeps the job's progress current."""

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from lepton.errors import FailedPrecondition, InvalidArgument, LeptonError, NotFound
from lepton.internal.v1.run_report_pb2 import (
    RefusedEvent,
    ReportRunRequest,
    ReportRunResponse,
    RunEvent,
    StartRunRequest,
    StartRunResponse,
)
from lepton.internal.v1.run_report_pb2_grpc import RunReportServiceServicer
from lepton.names import JobName
from lepton.trainer.v1.job_pb2 import Job, Straggler
from services.trainer.commits import note_failed, note_metrics
from services.trainer.failures import note_failure, of_rank
from services.trainer.gauge import Gauge, Reading, record, show
from services.trainer.journal import Journals, Source
from services.trainer.lifecycle import ENDED
from services.trainer.runs import Runs
from services.trainer.store import JobStore
from services.trainer.stragglers import Stragglers

_OPENED: Final = 1024
_REFUSALS: Final = (FailedPrecondition, InvalidArgument, NotFound)
"""What a repeat will not mend; anything else ends the stream, and the agent sends again what was not answered."""


class RunReportServicer(RunReportServiceServicer):
    """The agents' side of the trainer."""

    def __init__(self, jobs: JobStore, runs: Runs, journals: Journals) -> None:
        self._jobs, self._runs, self._journals = jobs, runs, journals
        self._gauge, self._stragglers = Gauge(), Stragglers()
        self._opened: OrderedDict[str, tuple[int, str]] = OrderedDict()  # job -> generation heard of last, and its uid

    async def StartRun(self, request: StartRunRequest, context: Any) -> StartRunResponse:
        """Opens a generation."""
        return await self._runs.start(request)

    async def ReportRun(
        self, request_iterator: AsyncIterator[ReportRunRequest], context: Any
    ) -> AsyncIterator[ReportRunResponse]:
        """Stores events batch by batch and answers each batch."""
        async for batch in request_iterator:
            yield await self._take(batch)

    async def _take(self, batch: ReportRunRequest) -> ReportRunResponse:
        answer = ReportRunResponse(job=batch.job, generation=batch.generation, rank=batch.rank)
        if not batch.events:
            return answer
        name = JobName.parse(batch.job, "job")
        if await self._take_paces(name, batch):
            answer.sequence = max(event.sequence for event in batch.events)
            return answer
        try:
            job = await self._jobs.get(name)
            _check_opened(job, batch.generation)
        except (NotFound, FailedPrecondition) as error:
            # It was deleted, or is another of the same name: nothing is wanted, and the agent need not keep it.
            answer.sequence = max(event.sequence for event in batch.events)
            answer.refused.extend(_refused(event, error) for event in batch.events)
            return answer
        self._opened[batch.job] = batch.generation, job.uid
        while len(self._opened) > _OPENED:
            self._opened.popitem(last=False)
        for event in batch.events:
            try:
                await self._commit(name, batch.generation, event)
            except _REFUSALS as error:
                answer.refused.append(_refused(event, error))
        reading = self._gauge.hear(job.uid, batch)
        await self._note(name, batch, reading, self._stragglers.hear(job.uid, batch))
        record(reading, batch.events)
        source = Source(generation=batch.generation, rank=batch.rank)
        # Last, so that whatever is acknowledged has had its effect: a repeat after a crash commits again, harmlessly.
        answer.sequence = await self._journals.of(job.uid).append(source, batch.events)
        return answer

    async def _take_paces(self, name: JobName, batch: ReportRunRequest) -> bool:
        """Takes a batch of nothing but paces, which every rank tells every few seconds: mostly nothing is stored."""
        generation, uid = self._opened.get(batch.job, (0, ""))
        if generation != batch.generation or any(event.WhichOneof("event") != "pace" for event in batch.events):
            return False
        reading = self._gauge.hear(uid, batch)
        await self._note(name, batch, reading, self._stragglers.hear(uid, batch))
        return True

    async def _commit(self, name: JobName, generation: int, event: RunEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "checkpoint":
            await self._runs.commit_checkpoint(name, generation, event.checkpoint)
        elif kind == "package":
            await self._runs.commit_package(name, generation, event.package)

    async def _note(
        self, name: JobName, batch: ReportRunRequest, reading: Reading, stragglers: Sequence[Straggler] | None
    ) -> None:
        measured = [event for event in batch.events if event.WhichOneof("event") == "measurement"]
        failed = [event for event in batch.events if event.WhichOneof("event") == "failure"]
        unsaved = [
            event.checkpoint_failed for event in batch.events if event.WhichOneof("event") == "checkpoint_failed"
        ]
        if not measured and not failed and not unsaved and stragglers is None:
            return

        def note(job: Job) -> None:
            if job.state not in ENDED and batch.generation == job.generation:
                _apply_measurements(job, measured)
                note_failed(job, unsaved)
                show(reading, job)
                if stragglers is not None:
                    del job.stragglers[:]
                    job.stragglers.extend(stragglers)
            for event in failed:
                error = of_rank(event.failure, batch.rank, batch.generation, event.time)
                note_failure(job, batch.generation, error)

        with contextlib.suppress(NotFound):
            await self._jobs.change(name, note)


def _check_opened(job: Job, generation: int) -> None:
    if not 0 < generation <= job.generation:
        raise FailedPrecondition("GENERATION_UNKNOWN", job=job.name, generation=str(generation))


def _apply_measurements(job: Job, events: Sequence[RunEvent]) -> None:
    for event in events:
        measured = event.measurement
        if measured.step < job.progress.step:
            continue
        job.progress.step = measured.step
        job.progress.total_steps = measured.total_steps or job.progress.total_steps
        job.progress.epoch = measured.epoch
        job.progress.fraction = measured.progress
        job.progress.time.CopyFrom(event.time)
        job.progress.samples_per_s = measured.values.get("samples_per_s", job.progress.samples_per_s)
        note_metrics(job, measured.values)


def _refused(event: RunEvent, error: LeptonError) -> RefusedEvent:
    return RefusedEvent(sequence=event.sequence, reason=error.reason, message=error.message)
