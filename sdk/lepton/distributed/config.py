"""What a distributed training is told: the model, the data, and how much of what."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lepton.distributed.datasets import DataLike
from lepton.errors import InvalidArgument
from lepton.models import Architecture, Wanted
from lepton.recipes import recipe
from lepton.trainer.v1.job_pb2 import Parallelism

ModelLike = str | Wanted | type[Wanted] | Architecture
_LARGEST = 10_000


@dataclass(frozen=True, slots=True)
class DistributedTrainConfig:
    """One training. InvalidArgument, when it is made, for what can never be trained.

    model           `lepton.models.ImageClassifier(hidden=128)` or another of lepton.models; or a recipe's name
    data            a dataset, arrays, or paths, or a list of these; see `lepton.distributed.datasets`
    epochs          passes over the data
    batch_size      samples a step, over all ranks together
    gpu_count       ranks; each takes one GPU where the fleet has them, else they train on CPUs
    learning_rate   0 = the recipe's default for the batch size
    seed            of every random choice
    test_fraction   of the samples, where the data brings no test set; 0 = the recipe's default
    strategy        ddp, fsdp or parameter_server
    pools           that it may run in, the preferred first; none = any
    name            the job's id; default: made of the recipe and the time
    project         default: the profile's
    timeout_s       until `train` gives up waiting; the job goes on
    verbose         how it goes is told on standard error
    """

    model: ModelLike
    data: DataLike
    epochs: int = 10
    batch_size: int = 32
    gpu_count: int = 1
    learning_rate: float = field(default=0.0, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    test_fraction: float = field(default=0.0, kw_only=True)
    strategy: str = field(default="ddp", kw_only=True)
    pools: Sequence[str] = field(default=(), kw_only=True)
    name: str = field(default="", kw_only=True)
    project: str = field(default="", kw_only=True)
    timeout_s: float | None = field(default=None, kw_only=True)
    verbose: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        for name, most in (("epochs", 1_000_000), ("batch_size", 1_000_000), ("gpu_count", _LARGEST)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise _invalid(name, f"must be a whole number from 1 to {most}")
        if self.learning_rate < 0 or not 0 <= self.test_fraction < 1:
            wrong = "learning_rate" if self.learning_rate < 0 else "test_fraction"
            raise _invalid(wrong, "must be 0 or more, and a fraction less than 1")
        if self.strategy.upper() not in Parallelism.Data.keys()[1:]:
            raise _invalid("strategy", f"must be one of {', '.join(Parallelism.Data.keys()[1:]).lower()}")
        recipe(self.recipe, "model").complete(self.settings)

    @property
    def recipe(self) -> str:
        """The name of the recipe that trains the model."""
        model: Any = self.model
        if isinstance(model, str):
            # `ImageClassifier` is `image_classifier`: the documents name both.
            return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in model).lstrip("_")
        if isinstance(model, Wanted) or (isinstance(model, type) and issubclass(model, Wanted)):
            return model.recipe
        if isinstance(model, Architecture):
            return model.name
        raise _invalid(
            "model",
            f"is a {type(model).__name__}; give one of lepton.models or a recipe's name. "
            "A model of your own is trained by your script: `lepton run`",
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the model says of the recipe's settings; what the data decides is left to it."""
        if isinstance(self.model, Wanted):
            return dict(self.model.settings)
        if isinstance(self.model, Architecture):
            known = recipe(self.recipe).settings
            return {name: value for name, value in self.model.config.items() if name in known}
        return {}


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={name: problem})
