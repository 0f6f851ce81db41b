"""The built-in recipes by name: what a training spec's `recipe` may say, and the module that describes its task."""

from importlib import import_module
from typing import Final

from lepton.data import AnyDataset
from lepton.errors import InvalidArgument
from lepton.recipes import recipe
from services.trainer.worker.spec import RECIPES, TrainingSpec
from services.trainer.worker.task import Recipe, Task

MODULES: Final = {name: f"{__name__}.{name}" for name in RECIPES}


def load(name: str) -> Recipe:
    """The recipe of that name."""
    found: Recipe = import_module(MODULES[name]).task
    return found


def task(spec: TrainingSpec, dataset: AnyDataset) -> Task:
    """The task that a spec describes; InvalidArgument when the dataset is of another kind than its recipe takes."""
    wanted = recipe(spec.recipe).data
    if dataset.kind != wanted:
        problem = f"it is a dataset of the kind {dataset.kind}, and {spec.recipe} takes {wanted}; give one of that kind"
        raise InvalidArgument("DATASET_INVALID", problem=problem)
    return load(spec.recipe)(spec, dataset)
