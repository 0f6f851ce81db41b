"""Sums a run's loss, hits and samples between two reports, and turns the gang's totals into metrics."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Meter:
    """What one rank has seen since the last report."""

    loss: float = 0.0
    correct: float = 0.0
    samples: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def add(self, *, loss: float, correct: int, samples: int) -> None:
        """Counts one step of this rank; `loss` is the sum over its samples."""
        self.loss += loss
        self.correct += correct
        self.samples += samples

    def totals(self) -> list[float]:
        """What to sum over the ranks."""
        return [self.loss, self.correct, self.samples]

    def metrics(self, totals: list[float]) -> dict[str, float]:
        """Mean loss, accuracy and samples per second of the whole gang, given the summed totals."""
        loss, correct, samples = totals[:3]
        elapsed = max(time.monotonic() - self.since, 1e-9)
        count = max(samples, 1.0)
        return {"loss": loss / count, "accuracy": correct / count, "samples_per_s": samples / elapsed}
