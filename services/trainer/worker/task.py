"""What a recipe gives the loop: samples, a model, a measure, and what else makes one training differ from another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from lepton.data import AnyDataset
from lepton.models import Architecture
from lepton.train.sampler import Batch
from services.trainer.worker.measures import Measure
from services.trainer.worker.samples import Division, Samples
from services.trainer.worker.spec import TrainingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One training. `build` makes the model that is trained, equal on all ranks that call it."""

    samples: Samples
    division: Division
    architecture: Architecture  # complete
    build: Callable[[], nn.Sequential]
    measure: Measure
    augment: "Callable[[Tensor, Batch], Tensor] | None" = None  # a rank's inputs of a batch, in training only
    output: str = "logits"  # the name of what the model gives
    facts: Mapping[str, Any] = field(default_factory=dict)  # what a user of the model must know of the data
    metrics: Mapping[str, float] = field(default_factory=dict)  # known before training
    carried: Mapping[str, str | int] = field(default_factory=dict)  # what checkpoints keep beside the loop's own
    served: Samples | None = None  # samples as the packaged model takes them, where they differ from `samples`
    whole: Callable[[nn.Sequential], nn.Sequential] = lambda trained: trained
    """The model to package, of the one that was trained: they differ where a frozen trunk stays outside."""


class Recipe(Protocol):
    """A recipe's module offers this as `task`."""

    def __call__(self, spec: TrainingSpec, dataset: AnyDataset) -> Task:
        """The task of a spec on a dataset of the recipe's kind; nothing in it depends on the rank."""


__all__ = ["Recipe", "Task"]
