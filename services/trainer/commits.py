"""What a commit of a rank means for its job: the checkpoint, those it supersedes, the metrics; pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from chassis.kv import Delete, Op
from chassis.resources import now
from lepton.errors import InvalidArgument
from lepton.internal.v1.run_report_pb2 import CheckpointWritten
from lepton.names import CheckpointName, JobName
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import CheckpointPolicy, Job
from services.trainer.store import checkpoint_key

_KEEP_LATEST: Final = 3
_STEPS: Final = 10**12
_MOST_FORGOTTEN: Final = 64
_MOST_METRICS: Final = 256
_METRIC: Final = "loss"
_NOT_WRITTEN: Final = "checkpoint not written: "
_MESSAGE: Final = 1000


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


def is_repeat(newest: Checkpoint | None, generation: int, written: CheckpointWritten) -> bool:
    """Whether a commit of the current generation was taken before, and only its answer was lost.

    Within a generation steps only rise. One that goes on from an older checkpoint, because the newest was damaged, may
    commit lower steps than its predecessor did: those are news.
    """
    if newest is None:
        return False
    if newest.step == written.step and newest.manifest == written.manifest:
        return True
    return newest.generation >= generation and newest.step > written.step


def retention(name: JobName, job: Job, newest: Checkpoint, kept: Sequence[Checkpoint]) -> Sequence[Op]:
    """Forgets the checkpoints that a new one supersedes; `kept` is newest first.

    Those at its step or beyond are of an earlier generation whose work was lost with them: the new one takes its place.
    """
    lost = [one for one in kept if one.step > newest.step]
    older = [one for one in kept if one.step < newest.step]
    wanted = {one.step for one in to_keep(job.checkpoint_policy, [newest, *older])}
    dropped = [*lost, *(one for one in older if one.step not in wanted)]
    return [Delete(checkpoint_key(name, one.step)) for one in dropped[:_MOST_FORGOTTEN]]


def to_keep(policy: CheckpointPolicy, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Of checkpoints, newest first: the latest, and the best by the policy's metric; of equals the newer is better.

    One without the metric, or with a value that is no number, is never among the best.
    """
    latest = checkpoints[: policy.keep_latest or _KEEP_LATEST]
    metric, sign = policy.metric or _METRIC, -1.0 if policy.maximize else 1.0
    measured = [one for one in checkpoints if math.isfinite(one.metrics.get(metric, math.nan))]
    best = sorted(measured, key=lambda one: (sign * one.metrics[metric], -one.step))[: policy.keep_best]
    wanted = {one.step for one in (*latest, *best)}
    return [one for one in checkpoints if one.step in wanted]


def note_failed(job: Job, told: Iterable[str]) -> None:
    """Shows that a checkpoint could not be written, or read; the job goes on."""
    for why in told:
        job.message = f"{_NOT_WRITTEN}{why}"[:_MESSAGE]


def note_written(job: Job) -> None:
    """Takes back that one could not be written, now that one could."""
    if job.message.startswith(_NOT_WRITTEN):
        job.message = ""


def note_metrics(job: Job, metrics: Mapping[str, float]) -> None:
    """Keeps the last value of each metric; a program that invents names for ever is not followed for ever."""
    for metric, value in metrics.items():
        if metric in job.metrics or len(job.metrics) < _MOST_METRICS:
            job.metrics[metric] = value
