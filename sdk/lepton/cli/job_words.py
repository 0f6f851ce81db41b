"""What is said of a job in words: how it goes, what has failed and what to do about it, who is slow; pure."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from lepton.cli.cells import duration, state
from lepton.trainer.v1.job_pb2 import Job, JobError

_TAIL = 8
_FAILURES = 5


def class_name(error: JobError) -> str:
    """The kind of a failure; empty when it is not known."""
    kind: Any = getattr(error, "class")
    return JobError.Class.Name(kind) if kind else ""


def failure_line(error: JobError) -> str:
    """A failure in one line: its kind, where it happened, what it said."""
    node = error.node.rpartition("/")[2]
    where = f"rank {error.rank}{f' on {node}' if node else ''}"
    when = f"generation {error.generation}, " if error.generation else ""
    return f"{class_name(error) or 'FAILED'} ({when}{where}): {error.message}"


def failure_lines(error: JobError) -> Iterator[str]:
    """A failure with what to do about it and the last lines of the rank."""
    yield failure_line(error)
    if error.advice:
        yield f"  advice: {error.advice}"
    if tail := list(error.log_tail)[-_TAIL:]:
        yield f"  last lines of rank {error.rank}:"
        yield from (f"    {line}" for line in tail)


def failures(job: Job) -> list[JobError]:
    """What has failed so far, the newest last, each once."""
    found = list(job.failures)
    if job.HasField("error") and not any(each.message == job.error.message for each in found):
        found.append(job.error)
    return found


def straggler_line(job: Job) -> str:
    """Who is slow, in one line; empty when nobody is."""
    shown = [f"rank {each.rank} on {each.node.rpartition('/')[2]} x{each.slowdown:.1f}" for each in job.stragglers]
    return f"slower than the others: {', '.join(shown)}" if shown else ""


def eta_s(job: Job, now: datetime) -> float:
    """Seconds that are left, counted down since they were told; 0 when unknown."""
    told = job.progress
    if not told.eta_s or job.state != Job.RUNNING:
        return 0.0
    since_s = (now - told.time.ToDatetime(UTC)).total_seconds() if told.HasField("time") else 0.0
    return max(told.eta_s - max(since_s, 0.0), 1.0)


def details(job: Job, now: datetime) -> Iterator[str]:
    """What stands below a job's row: progress, what it waits for, what has failed and what helps, who is slow."""
    if progress := progress_words(job, now):
        yield f"  {progress}"
    if job.message and job.state not in (Job.FAILED, Job.SUCCEEDED):
        yield f"  {state(job).lower()}: {job.message}"
    if slow := straggler_line(job):
        yield f"  {slow}"
    found = failures(job)
    if len(found) > _FAILURES:
        yield f"  {len(found) - _FAILURES} earlier failures: -o yaml shows all that are remembered"
    for error in found[-_FAILURES:-1]:
        yield f"  {failure_line(error)}"
        if error.advice:
            yield f"    advice: {error.advice}"
    if found:
        yield from (f"  {line}" for line in failure_lines(found[-1]))


def progress_words(job: Job, now: datetime) -> str:
    """How far a job is, in one line; empty when it has not begun."""
    told = job.progress
    if not told.step and not told.fraction:
        return ""
    parts = [
        f"{100 * told.fraction:.0f}%",
        f"step {told.step}{f'/{told.total_steps}' if told.total_steps else ''}",
        f"epoch {told.epoch + 1}",
        *(f"{name} {job.metrics[name]:.4g}" for name in ("loss", "accuracy", "test_accuracy") if name in job.metrics),
        f"{told.samples_per_s:.4g} samples/s" if told.samples_per_s else "",
        f"busy {100 * told.utilization:.0f}%" if told.utilization else "",
        f"eta {duration(left)}" if (left := eta_s(job, now)) else "",
    ]
    return "  ".join(part for part in parts if part)


def one_line(job: Job, now: datetime) -> str:
    """A job in one line, for what is no terminal."""
    name = job.name.rpartition("/")[2]
    restarts = f"restarts {job.restarts}" if job.restarts else ""
    words = job.message if job.state in (Job.PENDING, Job.STARTING, Job.CANCELLING) else ""
    return "  ".join(part for part in (name, state(job), progress_words(job, now), restarts, words) if part)
