"""What a model is trained to lower and judged by; sums over samples, so that ranks add theirs up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

_BINS: Final = 512  # of the scores from which the area under the curve is summed


class Measure(Protocol):
    """A loss and the metrics beside it."""

    @property
    def length(self) -> int:
        """How many numbers `tally` counts."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, summed over the samples."""

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What else is counted: `length` numbers (float64), summed over the samples."""

    def metrics(self, loss: float, count: float, tally: Sequence[float]) -> dict[str, float]:
        """The metrics of `count` samples with that summed loss and tally; `loss` is always among them."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Cross-entropy and accuracy, of one way of classifying or of several whose logits stand side by side.

    Of two classes there is also `auc`, the area under the receiver's operating curve, from scores in 512 bins.
    """

    tasks: tuple[int, ...]

    @property
    def length(self) -> int:
        """See Measure."""
        return len(self.tasks) + (2 * _BINS if self.tasks == (2,) else 0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See Measure; the mean over the ways."""
        parts = [
            functional.cross_entropy(logits, labels, reduction="sum") for logits, labels in self._each(outputs, targets)
        ]
        return torch.stack(parts).mean() if len(parts) > 1 else parts[0]

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See Measure."""
        hits = [(logits.argmax(1) == labels).sum() for logits, labels in self._each(outputs, targets)]
        counted = torch.stack(hits).double()
        return torch.cat([counted, _scores(outputs, targets)]) if self.tasks == (2,) else counted

    def metrics(self, loss: float, count: float, tally: Sequence[float]) -> dict[str, float]:
        """See Measure."""
        shares = [hits / count for hits in tally[: len(self.tasks)]]
        found = {"loss": loss / count, "accuracy": sum(shares) / len(shares)}
        if len(shares) > 1:
            found |= {f"accuracy_{index}": share for index, share in enumerate(shares)}
        if self.tasks == (2,):
            found["auc"] = _area(tally[1 : 1 + _BINS], tally[1 + _BINS :])
        return found

    def _each(self, outputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        if len(self.tasks) == 1:
            return [(outputs, targets)]
        return list(zip(torch.split(outputs, list(self.tasks), 1), targets.unbind(1), strict=True))


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Cross-entropy of the next token at every place, a sample's loss being the mean over its places."""

    length: ClassVar[int] = 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See Measure."""
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum") / targets.shape[1]

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See Measure."""
        return ((outputs.argmax(2) == targets).double().mean(1).sum()).reshape(1)

    def metrics(self, loss: float, count: float, tally: Sequence[float]) -> dict[str, float]:
        """See Measure."""
        mean = loss / count
        return {"loss": mean, "accuracy": tally[0] / count, "perplexity": math.exp(min(mean, 700.0))}


@dataclass(frozen=True, slots=True)
class Values:
    """The squared error of numbers in units of `spread`, one for each of the last dimension, or one for all."""

    spread: Tensor = field(default_factory=lambda: torch.ones(1))
    length: ClassVar[int] = 2

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See Measure; a sample's loss is the mean over its numbers."""
        return ((outputs - targets) / self.spread.to(outputs.device)).square().flatten(1).mean(1).sum()

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See Measure."""
        errors = (outputs.double() - targets.double()).flatten(1)
        return torch.stack([errors.square().mean(1).sum(), errors.abs().mean(1).sum()])

    def metrics(self, loss: float, count: float, tally: Sequence[float]) -> dict[str, float]:
        """See Measure."""
        return {"loss": loss / count, "rmse": math.sqrt(tally[0] / count), "mae": tally[1] / count}


def _scores(outputs: Tensor, targets: Tensor) -> Tensor:
    bins = (torch.sigmoid(outputs[:, 1] - outputs[:, 0]) * _BINS).long().clamp(0, _BINS - 1)
    counts = torch.bincount(bins + _BINS * targets, minlength=2 * _BINS)
    return counts.double()


def _area(negatives: Sequence[float], positives: Sequence[float]) -> float:
    below, area = 0.0, 0.0
    for negative, positive in zip(negatives, positives, strict=True):
        area += positive * (below + negative / 2)  # within a bin they count as equal
        below += negative
    pairs = below * sum(positives)
    return area / pairs if pairs else 0.5
