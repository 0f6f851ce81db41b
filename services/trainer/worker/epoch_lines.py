"""What a run prints for people: a line when it begins, one for each epoch, one with what it has come to; pure."""

from collections.abc import Mapping
from typing import Final

_ASIDE: Final = frozenset({"learning_rate", "samples_per_s", "utilization"})


class EpochLines:
    """Makes the lines of one run, from what it measures."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._measured: dict[str, float] = {}

    def begin(self, *, ranks: int, device: str, samples: int, step: int, steps: int) -> str:
        """The line for the beginning, or for going on behind a step."""
        on = f"{ranks} rank{'s' if ranks > 1 else ''} on {device}, {samples} samples, {self._epochs} epochs"
        return f"{on}, {steps} steps{f', going on behind step {step}' if step else ''}"

    def take(self, metrics: Mapping[str, float]) -> None:
        """Remembers what was measured; the newest of each counts."""
        self._measured.update(metrics)

    def epoch(self, epoch: int, step: int) -> str:
        """The line for an epoch (from 0) that has ended."""
        values = words({name: value for name, value in self._measured.items() if name not in _ASIDE})
        speed = self._measured.get("samples_per_s", 0.0)
        self._measured.clear()
        parts = (f"epoch {epoch + 1}/{self._epochs}", f"step {step}", values, f"{speed:.0f} samples/s" if speed else "")
        return "  ".join(part for part in parts if part)


def words(metrics: Mapping[str, float]) -> str:
    """Metrics in a line: what is measured while training comes before what is held out."""
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in sorted(metrics, key=lambda name: ("_" in name, name)))
