"""Jobs side by side: the settings that differ, what each has reached, its best, how long it took; pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from lepton.curves.curves import HIDDEN, Curves
from lepton.trainer.v1.job_pb2 import Job

_SETTINGS: Final = (
    "recipe", "bundle", "dataset", "workers", "parallelism", "checkpoint_policy", "pools", "queue", "node_selector",
)  # fmt: skip
_UNSET: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best value of a metric, and where it was reached."""

    value: float
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A table of jobs; every list has one entry for each, in the order of `jobs`."""

    jobs: Sequence[str]
    states: Sequence[str]
    settings: Mapping[str, Sequence[str]]
    """Only those that are not the same everywhere."""
    metrics: Mapping[str, Sequence[float | None]]
    """As the jobs have them now; of jobs that have ended, finally."""
    best: Mapping[str, Sequence[Best | None]]
    duration_s: Sequence[float | None]
    samples_per_s: Sequence[float | None]
    restarts: Sequence[int]


def compare(curves: Sequence[Curves]) -> Comparison:
    """The comparison of some jobs."""
    jobs = [each.job for each in curves]
    settings = [_flat(job) for job in jobs]
    names = sorted({name for each in settings for name in each})
    columns = {name: [each.get(name, _UNSET) for each in settings] for name in names}
    metrics = _ordered({name for job in jobs for name in job.metrics} - HIDDEN)
    measured = _ordered({name for each in curves for name in each.names} - HIDDEN)
    return Comparison(
        jobs=[each.job_id for each in curves],
        states=[Job.State.Name(job.state) for job in jobs],
        settings={name: values for name, values in columns.items() if len(set(values)) > 1},
        metrics={name: [job.metrics.get(name) for job in jobs] for name in metrics},
        best={name: [_best(each, name) for each in curves] for name in measured},
        duration_s=[_duration_s(job) for job in jobs],
        samples_per_s=[_speed(each) for each in curves],
        restarts=[job.restarts for job in jobs],
    )


def _ordered(names: Iterable[str]) -> list[str]:
    # By what is measured, then by which samples: loss, test_loss, validation_loss stand together.
    return sorted(names, key=lambda name: (name.rpartition("_")[2], name))


def _flat(job: Job) -> dict[str, str]:
    document = MessageToDict(job, preserving_proto_field_name=True)
    return {path: value for name in _SETTINGS if name in document for path, value in _leaves(name, document[name])}


def _leaves(path: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for name in sorted(value):
            yield from _leaves(f"{path}.{name}", value[name])
        return
    yield path, ",".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _text(value: Any) -> str:
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text[:19] if text.startswith("sha256:") else text


def _best(curves: Curves, name: str) -> Best | None:
    if name not in curves:
        return None
    step, value = curves[name].best
    return Best(value=value, step=step) if math.isfinite(value) else None


def _duration_s(job: Job) -> float | None:
    if not job.HasField("start_time"):
        return None
    until = job.end_time.ToDatetime(UTC) if job.HasField("end_time") else datetime.now(UTC)
    return (until - job.start_time.ToDatetime(UTC)).total_seconds()


def _speed(curves: Curves) -> float | None:
    speeds = [point.values["samples_per_s"] for point in curves.points if "samples_per_s" in point.values]
    return median(speeds) if speeds else curves.job.progress.samples_per_s or None
