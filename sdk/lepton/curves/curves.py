"""The measurements of one job as curves: one for each metric, without what a later generation has done again."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import MetricPoint

_SMALL_IS_GOOD: Final = ("loss", "error", "perplexity", "mae", "mse", "rmse", "mape")
HIDDEN: Final = frozenset({"samples_per_s", "tokens_per_s", "utilization", "learning_rate", "epoch_s"})
"""Metrics of how the run goes, not of how good the model is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric over the steps of a job; all sequences are as long as each other."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    epochs: Sequence[int]
    minutes: Sequence[float]
    """Since the job's first measurement."""

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float:
        """The newest value."""
        return self.values[-1]

    @property
    def best(self) -> tuple[int, float]:
        """The step of the best value, and that value; NaN when there is no number among them."""
        numbers = [(value, step) for step, value in zip(self.steps, self.values, strict=True) if math.isfinite(value)]
        if not numbers:
            return self.steps[-1], math.nan
        value, step = min(numbers) if is_better_when_small(self.name) else max(numbers, key=lambda each: each[0])
        return step, value


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Everything that a job has measured."""

    job: Job
    points: Sequence[MetricPoint]
    """In the order in which they were measured."""

    @property
    def job_id(self) -> str:
        """The last part of the job's name."""
        return self.job.name.rpartition("/")[2]

    @property
    def names(self) -> list[str]:
        """The metrics, sorted: first those of the model, then those of the run."""
        found = {name for point in self.points for name in point.values}
        return sorted(found, key=lambda name: (name in HIDDEN, name))

    @cached_property
    def effective(self) -> list[MetricPoint]:
        """The points without those that a later generation, going on from a checkpoint, has measured anew."""
        first: dict[int, int] = {}  # step of each generation
        for point in self.points:
            first[point.generation] = min(point.step, first.get(point.generation, point.step))
        return [
            point
            for point in self.points
            if all(generation <= point.generation or point.step < step for generation, step in first.items())
        ]

    @property
    def restarts(self) -> list[tuple[int, int]]:
        """Each generation but the first, with its first step."""
        seen: dict[int, int] = {}
        for point in self.points:
            seen.setdefault(point.generation, point.step)
        return sorted(seen.items())[1:]

    def __contains__(self, name: str) -> bool:
        return any(name in point.values for point in self.points)

    def __getitem__(self, name: str) -> Curve:
        """The curve of a metric; KeyError when it was not measured."""
        chosen = [point for point in self.effective if name in point.values]
        if not chosen:
            raise KeyError(name)
        begun = min(point.time.ToMicroseconds() for point in self.points)
        return Curve(
            name=name,
            steps=tuple(point.step for point in chosen),
            values=tuple(point.values[name] for point in chosen),
            epochs=tuple(point.epoch for point in chosen),
            minutes=tuple((point.time.ToMicroseconds() - begun) / 60e6 for point in chosen),
        )

    def __iter__(self) -> Iterator[Curve]:
        return (self[name] for name in self.names)


def is_better_when_small(name: str) -> bool:
    """Whether a smaller value of a metric is the better one, going by its name."""
    return any(word in _SMALL_IS_GOOD for word in name.lower().replace("-", "_").split("_"))
