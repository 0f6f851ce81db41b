"""What is kept of a job's failures: of each generation the one that is to blame, the newest with its output; pure."""

from collections.abc import Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.failures import ADVICE, Sighting, first_cause
from lepton.internal.v1.run_report_pb2 import RankFailure
from lepton.scheduler.v1.workload_pb2 import FailureRecord
from lepton.trainer.v1.job_pb2 import Job, JobError

MOST: Final = 32
_TAIL_LINES: Final = 20
_LINE: Final = 1000
_MESSAGE: Final = 4000
_SHORT_MESSAGE: Final = 500  # of a failure that is not the newest
_UNTOLD: Final = frozenset({JobError.PREEMPTED, JobError.CANCELLED})  # they are not why a job is in trouble


def failure(message: str, *, rank: int = 0, log_tail: Sequence[str] = ()) -> JobError:
    """A failure of the user's program of which nothing more is known."""
    return classed(JobError(message=message, rank=rank, log_tail=log_tail), JobError.USER_ERROR)


def classed(error: JobError, kind: "JobError.Class.ValueType") -> JobError:
    """The failure with that class, which is a keyword of Python and so cannot be an argument."""
    setattr(error, "class", kind)
    return error


def of_rank(told: RankFailure, rank: int, generation: int, noticed: Timestamp) -> JobError:
    """A failure as the rank's agent tells it."""
    error = JobError(
        message=told.message[:_MESSAGE],
        rank=rank,
        log_tail=[line[:_LINE] for line in told.log_tail[-_TAIL_LINES:]],
        node=told.node,
        generation=generation,
        time=noticed,
        exit_code=told.exit_code,
        advice=told.advice,
        step=told.step,
    )
    return classed(error, class_named(getattr(told, "class")))


def of_generation(record: FailureRecord, now: Timestamp) -> JobError:
    """How a generation ended, as the scheduler tells it: also what no agent could tell."""
    error = JobError(
        message=record.message[:_MESSAGE],
        rank=record.slice,
        node=record.node,
        generation=record.generation,
        time=record.time if record.HasField("time") else now,
        exit_code=record.exit_code,
        step=record.step,
        advice=_advice(record.failure_class),
    )
    return classed(error, class_named(record.failure_class))


def _advice(failure_class: str) -> str:
    return next((advice for kind, advice in ADVICE.items() if kind == failure_class), "")


def class_named(name: str) -> "JobError.Class.ValueType":
    """The class of that name; a program's own fault when it has none that is known here."""
    return JobError.Class.Value(name) if name in set(JobError.Class.keys()) else JobError.USER_ERROR


def note_failure(job: Job, generation: int, error: JobError) -> None:
    """Takes down how a rank has failed: of each generation the failure that is to blame for the others.

    It counts also when the workload's failure, which says less, has come before it.
    """
    if job.state in {Job.SUCCEEDED, Job.CANCELLED} or generation > job.generation:
        return
    error.generation = generation
    known = _of(job, generation)
    if known is None:
        _add(job, error)
    elif _says_more(error, known):
        known.CopyFrom(error)
    else:
        return
    if generation != job.generation:
        return
    job.error.CopyFrom(error)
    if job.state not in {Job.FAILED, Job.CANCELLING}:
        job.message = in_words(error)


def note_generation(job: Job, record: FailureRecord, now: Timestamp) -> None:
    """Takes down what the scheduler says of the end of a generation, which knows of all its ranks and nodes."""
    if not record.generation:
        return
    known = _of(job, record.generation)
    told = of_generation(record, now)
    if known is None:
        _add(job, told)
    elif _class_of(told) == _class_of(known):
        return  # the rank's agent has said more
    else:
        known.CopyFrom(told)
    if record.generation >= job.generation and _class_of(told) not in _UNTOLD:
        job.error.CopyFrom(told)


def in_words(error: JobError) -> str:
    """What a user reads while the gang is being restarted."""
    where = f" on {error.node}" if error.node else ""
    return f"rank {error.rank}{where} failed ({JobError.Class.Name(_class_of(error))}): {error.message}"


def _says_more(error: JobError, known: JobError) -> bool:
    if known.rank == error.rank and not known.log_tail and _class_of(known) == _class_of(error):
        return True
    return first_cause([_sighting(known), _sighting(error)]) == 1


def _sighting(error: JobError) -> Sighting:
    name = JobError.Class.Name(_class_of(error))
    return Sighting(failure_class=name, noticed_s=error.time.ToMicroseconds() / 1e6, step=error.step)


def _of(job: Job, generation: int) -> JobError | None:
    return next((each for each in reversed(job.failures) if each.generation == generation), None)


def _add(job: Job, error: JobError) -> None:
    for each in job.failures:
        each.ClearField("log_tail")
        each.message = each.message[:_SHORT_MESSAGE]
    job.failures.append(error)
    job.failures.sort(key=lambda each: each.generation)
    del job.failures[:-MOST]


def _class_of(error: JobError) -> "JobError.Class.ValueType":
    kind: JobError.Class.ValueType = getattr(error, "class")  # a keyword of Python
    return kind
