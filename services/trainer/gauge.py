"""What the trainer remembers of jobs that run, to say when they will be done and how busy their ranks are.

It is kept in memory only: after a restart it is there again as soon as ranks have reported twice.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lepton.internal.v1.run_report_pb2 import Measurement, RankPace, ReportRunRequest, RunEvent
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.rate import Course, Sample

_JOBS: Final = 4096
_FRESH_S: Final = 30.0
"""A rank that has not told its pace for so long is not counted; ranks tell it every few seconds while they step."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a gauge shows of a job; 0 is unknown."""

    eta_s: float = 0.0
    utilization: float = 0.0


@dataclass(slots=True)
class _Seen:
    generation: int
    steps: Course = field(default_factory=Course)
    fractions: Course = field(default_factory=Course)
    paces: dict[int, tuple[float, RankPace]] = field(default_factory=dict)


class Gauge:
    """One for all jobs; those heard of last are remembered."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, _Seen] = OrderedDict()

    def hear(self, job_uid: str, batch: ReportRunRequest) -> Reading:
        """Takes in what a rank has reported; what is known of its job then."""
        seen = self._of(job_uid, batch.generation)
        if batch.generation < seen.generation:
            return Reading()
        newest: Measurement | None = None
        for event in batch.events:
            kind, at_s = event.WhichOneof("event"), event.time.ToMicroseconds() / 1e6
            if kind == "pace":
                seen.paces[batch.rank] = at_s, event.pace
            elif kind == "measurement":
                newest = event.measurement
                if not seen.steps.samples or newest.step >= seen.steps.samples[-1].done:
                    seen.steps.add(Sample(at_s, newest.step))
                    seen.fractions.add(Sample(at_s, newest.progress))
        if newest is None:
            return Reading(utilization=utilization(seen.paces))
        if newest.total_steps:
            remaining_s = seen.steps.remaining_s(newest.total_steps)
        else:
            remaining_s = seen.fractions.remaining_s(1.0)
        return Reading(eta_s=remaining_s, utilization=utilization(seen.paces))

    def forget(self, job_uid: str) -> None:
        """The job is over."""
        self._jobs.pop(job_uid, None)

    def _of(self, job_uid: str, generation: int) -> _Seen:
        seen = self._jobs.get(job_uid)
        if seen is None or seen.generation < generation:
            seen = self._jobs[job_uid] = _Seen(generation)
        self._jobs.move_to_end(job_uid)
        while len(self._jobs) > _JOBS:
            self._jobs.popitem(last=False)
        return seen


def show(reading: Reading, job: Job) -> None:
    """Puts a reading into the job's progress; what is unknown now stays as it was."""
    if reading.eta_s or job.progress.fraction >= 1:
        job.progress.eta_s = reading.eta_s
    if reading.utilization:
        job.progress.utilization = reading.utilization


def record(reading: Reading, events: Iterable[RunEvent]) -> None:
    """Puts what a reading says into the measurements themselves, so that it can be read later, step by step."""
    for event in events:
        values = event.measurement.values if event.WhichOneof("event") == "measurement" else None
        if values is not None and reading.utilization and "utilization" not in values:
            values["utilization"] = reading.utilization


def utilization(paces: Mapping[int, tuple[float, RankPace]]) -> float:
    """The share of the time that the ranks compute, 0 to 1, averaged over those that have told it lately; 0 = unknown.

    `paces` are by rank, each with the time in seconds at which it was told.
    """
    newest_s = max((at_s for at_s, _ in paces.values()), default=0.0)
    shares: Sequence[float] = [
        min(1.0, pace.busy_s / pace.step_s)
        for at_s, pace in paces.values()
        if newest_s - at_s <= _FRESH_S and pace.step_s > 0 and pace.busy_s > 0
    ]
    return sum(shares) / len(shares) if shares else 0.0
