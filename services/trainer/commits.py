"""What a commit of a rank means for its job: the checkpoint, those it supersedes, the metrics; pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from chassis.kv import Delete, Op
from chassis.resources import now
from lepton.errors import InvalidArgument
from lepton.internal.v1.run_report_pb2 import CheckpointWritten
from lepton.names import CheckpointName, JobName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.store import checkpoint_key

_KEEP_LATEST: Final = 3
_STEPS: Final = 10**12
_MOST_FORGOTTEN: Final = 64
_MOST_METRICS: Final = 256


def checkpoint_of(name: JobName, generation: int, written: CheckpointWritten, size: int) -> Checkpoint:
    """The checkpoint that a rank has written. Raises InvalidArgument when its step is none."""
    if not 0 <= written.step < _STEPS:
        raise InvalidArgument("INVALID_FIELD", fields={"step": f"must be 0 or more, and less than {_STEPS}"})
    return Checkpoint(
        name=str(CheckpointName(name.project, name.job, f"{written.step:012d}")),
        step=written.step,
        manifest=written.manifest,
        generation=generation,
        metrics=written.metrics,
        size_bytes=size,
        create_time=now(),
    )


def retention(name: JobName, job: Job, newest: Checkpoint, kept: Sequence[Checkpoint]) -> Sequence[Op]:
    """Forgets the checkpoints that a new one supersedes; `kept` is newest first."""
    keep = (job.checkpoint_policy.keep_latest or _KEEP_LATEST) - 1
    older = [one for one in kept if one.step < newest.step]
    return [Delete(checkpoint_key(name, one.step)) for one in older[keep:][:_MOST_FORGOTTEN]]


def note_metrics(job: Job, metrics: Mapping[str, float]) -> None:
    """Keeps the last value of each metric; a program that invents names for ever is not followed for ever."""
    for metric, value in metrics.items():
        if metric in job.metrics or len(job.metrics) < _MOST_METRICS:
            job.metrics[metric] = value
