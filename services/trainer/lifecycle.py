"""A job's states, and what the state of its workload means for it; pure."""

from collections.abc import Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job, JobError
from services.trainer.failures import classed, failure, note_generation

ENDED: Final[frozenset["Job.State.ValueType"]] = frozenset({Job.SUCCEEDED, Job.FAILED, Job.CANCELLED})

NEXT: Final[Mapping["Job.State.ValueType", frozenset["Job.State.ValueType"]]] = {
    Job.PENDING: frozenset({Job.STARTING, Job.RUNNING, Job.SUCCEEDED, Job.FAILED, Job.CANCELLING, Job.CANCELLED}),
    Job.STARTING: frozenset({Job.PENDING, Job.RUNNING, Job.SUCCEEDED, Job.FAILED, Job.CANCELLING, Job.CANCELLED}),
    Job.RUNNING: frozenset({Job.PENDING, Job.STARTING, Job.SUCCEEDED, Job.FAILED, Job.CANCELLING, Job.CANCELLED}),
    Job.CANCELLING: frozenset({Job.CANCELLED, Job.SUCCEEDED, Job.FAILED}),
    Job.SUCCEEDED: frozenset(),
    Job.FAILED: frozenset(),
    Job.CANCELLED: frozenset(),
}
"""Where a job may go from where it is."""

_SEEN_AS: Final[Mapping["Workload.State.ValueType", "Job.State.ValueType"]] = {
    Workload.PENDING: Job.PENDING,
    Workload.ASSIGNED: Job.STARTING,
    Workload.RUNNING: Job.RUNNING,
    Workload.SUCCEEDED: Job.SUCCEEDED,
    Workload.FAILED: Job.FAILED,
    Workload.CANCELLED: Job.CANCELLED,
}


def observe(job: Job, workload: Workload, now: Timestamp) -> None:
    """Brings the job to where its workload shows it to be; leaves it alone when the workload tells nothing new."""
    state = _SEEN_AS.get(workload.state, job.state)
    if state == Job.SUCCEEDED and job.HasField("recipe") and not job.package:
        state = Job.FAILED
        job.error.CopyFrom(failure("every rank ended well, but none committed a model package"))
    if state in NEXT[job.state]:
        job.state = state
    job.workload = workload.name
    job.restarts = workload.restarts
    if job.state != Job.CANCELLING:
        job.message = workload.message
    note_generation(job, workload.failures, now)
    if workload.slices:
        del job.nodes[:]
        job.nodes.extend(dict.fromkeys(piece.node for piece in workload.slices))
    if job.state == Job.RUNNING and not job.HasField("start_time"):
        job.start_time.CopyFrom(now)
    if job.state in ENDED and not job.HasField("end_time"):
        job.end_time.CopyFrom(now)
        _explain_end(job, workload, now)


def end_without_workload(job: Job, now: Timestamp) -> None:
    """Ends a job that was cancelled before it had a workload, or whose workload an operator has deleted."""
    if job.state in ENDED:
        return
    if job.state == Job.CANCELLING:
        job.state, job.message = Job.CANCELLED, "stopped on request"
        job.error.CopyFrom(_cancelled(job, now))
    elif job.package:
        # The package is the last that a run commits, and only a workload that has ended can be deleted.
        job.state, job.message, job.progress.fraction = Job.SUCCEEDED, "", 1.0
    else:
        job.state, job.message = Job.FAILED, "its workload was deleted"
        if not job.error.message:
            job.error.CopyFrom(failure("its workload was deleted; submit the job again"))
    job.end_time.CopyFrom(now)


def refuse(job: Job, message: str, now: Timestamp) -> None:
    """Fails a job that the scheduler will never take."""
    if job.state in ENDED:
        return
    job.state, job.message = Job.FAILED, message
    job.error.CopyFrom(failure(message))
    job.end_time.CopyFrom(now)


def _explain_end(job: Job, workload: Workload, now: Timestamp) -> None:
    del job.stragglers[:]
    if job.state == Job.SUCCEEDED:
        job.progress.fraction = 1.0
        job.ClearField("error")
    if job.state == Job.CANCELLED:
        job.error.CopyFrom(_cancelled(job, now))
    if job.state == Job.FAILED and not job.error.message:
        job.error.CopyFrom(failure(workload.message or "the workload failed"))


def _cancelled(job: Job, now: Timestamp) -> JobError:
    error = JobError(message="stopped on request", generation=job.generation, time=now)
    return classed(error, JobError.CANCELLED)
