"""Sums what a rank sees between two reports, and turns the gang's sums into metrics."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from services.trainer.worker.measures import Measure


class Meter:
    """What one rank has seen since the last report."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._loss, self._count = 0.0, 0
        self._tally: Tensor | None = None
        self._since = time.monotonic()

    def add(self, loss: float, outputs: Tensor, targets: Tensor) -> None:
        """Counts some samples; `loss` is the sum over them. They may be none."""
        self._loss += loss
        self._count += len(targets)
        with torch.no_grad():
            tally = self._measure.tally(outputs, targets.to(outputs.device))
        self._tally = tally if self._tally is None else self._tally + tally

    def totals(self) -> list[float]:
        """What is summed over the ranks; as many numbers of a rank that has seen nothing."""
        tally = [0.0] * self._measure.length if self._tally is None else self._tally.tolist()
        return [self._loss, float(self._count), *tally]

    def metrics(self, totals: Sequence[float]) -> dict[str, float]:
        """The metrics of the gang's totals, and how many samples a second there were."""
        loss, count, *tally = totals
        elapsed = max(time.monotonic() - self._since, 1e-9)
        return {**self._measure.metrics(loss, max(count, 1.0), tally), "samples_per_s": count / elapsed}
