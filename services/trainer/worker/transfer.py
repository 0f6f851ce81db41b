"""Transfer learning: the weights of a model package taken over into a fresh model, layer by layer, where they fit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from lepton import models
from lepton.artifacts import ArtifactStore
from lepton.errors import FailedPrecondition
from lepton.models import ModelPackage
from lepton.models.package import WEIGHTS
from services.trainer.worker.task import Task

OUTPUT = "output"  # the last layer of every architecture: the head


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """A trained model whose weights others may begin with."""

    package: str  # digest
    weights: Mapping[str, Tensor]

    @classmethod
    def read(cls, store: ArtifactStore, project: str, digest: str) -> "Donor":
        """The model of a package; FailedPrecondition when its weights are not those of its architecture."""
        package = ModelPackage.parse(store.read(project, digest))
        model = models.build(package.architecture)
        try:
            model.load_state_dict(load(store.read(project, package.files[WEIGHTS])))
        except (RuntimeError, SafetensorError, KeyError) as error:
            problem = f"its weights are not those of its architecture ({error})"
            raise FailedPrecondition("TRANSFER_IMPOSSIBLE", package=digest, problem=problem) from error
        return cls(package=digest, weights=model.state_dict())

    def give(self, model: nn.Module) -> list[str]:
        """Copies every weight that the model has under the same name and in the same shape; their names."""
        own = model.state_dict()
        taken = [name for name, tensor in self.weights.items() if name in own and own[name].shape == tensor.shape]
        with torch.no_grad():
            for name in taken:
                own[name].copy_(self.weights[name])
        return taken


def begin_with(task: Task, donor: Donor, *, freeze: bool) -> Task:
    """The task, beginning with what fits of the donor's weights.

    FailedPrecondition when nothing fits or, if the trunk is to be frozen, when a part of the trunk does not.
    """
    fresh = task.build()
    taken = set(donor.give(fresh))
    trunk = [name for name in fresh.state_dict() if not name.startswith(f"{OUTPUT}.")]
    problem = ""
    if not taken:
        problem = "no layer of it has the name and the shape of one of this model; use a model of the same kind"
    elif freeze and (missing := [name for name in trunk if name not in taken]):
        problem = f"{missing[0]!r} of the trunk does not fit; use the settings of that model, or do not freeze"
    if problem:
        raise FailedPrecondition("TRANSFER_IMPOSSIBLE", package=donor.package, problem=problem)

    def build() -> nn.Sequential:
        model = task.build()
        donor.give(model)
        return model

    return replace(task, build=build, metrics={**task.metrics, "weights_taken_over": float(len(taken))})
