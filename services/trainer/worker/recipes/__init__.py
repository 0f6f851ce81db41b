"""The built-in recipes by name: what a training spec's `recipe` may say, and the module that carries it out."""

from importlib import import_module
from typing import Final, Protocol

from lepton.train.rank_session import RankSession
from services.trainer.worker.spec import RECIPES, TrainingSpec

MODULES: Final = {name: f"{__name__}.{name}" for name in RECIPES}


class Recipe(Protocol):
    """Trains what the spec says and offers the model package to the job; False when asked to stop before the end."""

    def __call__(self, spec: TrainingSpec, session: RankSession) -> bool: ...


def load(name: str) -> Recipe:
    """The recipe of that name."""
    recipe: Recipe = import_module(MODULES[name]).train
    return recipe
