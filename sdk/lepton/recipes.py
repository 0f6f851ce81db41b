"""The built-in recipes: what each trains on what data, its model's settings with their limits, and its defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lepton.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of a recipe's model: a number between limits; `default` None means that the data decides."""

    least: float
    most: float
    default: float | None
    about: str
    is_whole: bool = True

    def problem(self, value: object) -> str:
        """What is wrong with a value; empty when nothing is."""
        kind = "a whole number" if self.is_whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.least <= value <= self.most:
            return f"must be {kind} from {self.least:g} to {self.most:g}"
        return "" if not self.is_whole or value == int(value) else "must be a whole number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a recipe does where a job says nothing. `learning_rate` belongs to `batch_size`: see `rate`."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.05
    optimizer: str = "adamw"
    schedule: str = "cosine"
    stop_metric: str = "validation_loss"

    def rate(self, batch_size: int) -> float:
        """The learning rate for another batch size: it grows as its square root does, which suits Adam.

        Malladi, Lyu, Panigrahi and Arora: On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, 2022.
        """
        return self.learning_rate * math.sqrt(batch_size / self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeInfo:
    """A recipe as people and services see it; the program itself is in services/trainer/worker/recipes."""

    name: str
    data: str  # the kind of dataset that it takes
    about: str
    takes: str
    defaults: Defaults
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def complete(self, given: Mapping[str, Any], path: str = "model") -> dict[str, Any]:
        """The settings with every default that is not the data's filled in; InvalidArgument naming a wrong one."""
        if unknown := sorted(set(given) - set(self.settings)):
            known = ", ".join(sorted(self.settings)) or "none"
            raise _invalid(f"{path}.{unknown[0]}", f"is not a setting of {self.name}; it knows {known}")
        for name, value in given.items():
            if problem := self.settings[name].problem(value):
                raise _invalid(f"{path}.{name}", problem)
        defaults = {name: each.default for name, each in self.settings.items() if each.default is not None}
        chosen = {**defaults, **given}
        return {name: int(value) if self.settings[name].is_whole else float(value) for name, value in chosen.items()}


def recipe(name: str, path: str = "recipe") -> RecipeInfo:
    """The recipe of that name; InvalidArgument naming those that there are."""
    found = RECIPES.get(name)
    if found is None:
        raise _invalid(path, f"must be one of {', '.join(RECIPES)}")
    return found


def _invalid(path: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={path: problem})


_HIDDEN: Final = Setting(least=1, most=16384, default=64, about="width of the last hidden layer")
_WIDTH: Final = Setting(least=4, most=8192, default=64, about="width of the layers")
_LAYERS: Final = Setting(least=1, most=96, default=2, about="how many layers")

_ALL: Final = (
    RecipeInfo(
        name="image_classifier",
        data="images",
        about="a small convolutional network that tells images apart",
        takes="digits; a pair *-images-idx3-ubyte[.gz] / *-labels-idx1-ubyte[.gz]; an .npz archive (x and y, or "
        "x_train .. y_test); or a folder of PNG or JPEG files for each class",
        defaults=Defaults(epochs=20, batch_size=128, learning_rate=0.008),
        settings={
            "features": Setting(least=1, most=1024, default=32, about="channels of the first convolution"),
            "hidden": Setting(least=1, most=16384, default=128, about="width of the last hidden layer"),
            "poolings": Setting(least=1, most=4, default=None, about="halvings of height and width; default: by size"),
            "shift_pixels": Setting(
                least=0, most=64, default=None, about="random shifts in training; default: by size"
            ),
            "turn_degrees": Setting(
                least=0, most=180, default=10.0, is_whole=False, about="random turns and stretches in training"
            ),
        },
    ),
    RecipeInfo(
        name="text_classifier",
        data="texts",
        about="a convolutional network over hashed words that tells texts apart",
        takes="a .csv or .jsonl file with the columns text and label, or a folder of .txt files for each class",
        defaults=Defaults(epochs=10, batch_size=64, learning_rate=0.004),
        settings={
            "vocabulary": Setting(least=64, most=1 << 22, default=8192, about="buckets that words are hashed into"),
            "length": Setting(least=4, most=4096, default=64, about="words of a text that are read"),
            "width": _WIDTH,
        },
    ),
    RecipeInfo(
        name="language_model",
        data="corpus",
        about="a small GPT that continues text, byte by byte",
        takes="a .txt file, or a folder of them",
        defaults=Defaults(epochs=10, batch_size=32, learning_rate=0.003, weight_decay=0.1),
        settings={
            "context": Setting(least=8, most=8192, default=64, about="bytes that it looks back on"),
            "width": _WIDTH,
            "layers": _LAYERS,
            "heads": Setting(least=1, most=128, default=4, about="attention heads; must divide the width"),
        },
    ),
    RecipeInfo(
        name="forecaster",
        data="series",
        about="a network that continues time series",
        takes="a .csv file with a time column; every other column of numbers is a series",
        defaults=Defaults(epochs=20, batch_size=64, learning_rate=0.003, weight_decay=0.01),
        settings={
            "window": Setting(least=2, most=8192, default=48, about="past steps that a forecast is made from"),
            "horizon": Setting(least=1, most=4096, default=12, about="steps that are forecast"),
            "hidden": _HIDDEN,
        },
    ),
    RecipeInfo(
        name="recommender",
        data="ratings",
        about="embeddings of users and items that foretell ratings",
        takes="a .csv file with the columns user, item and rating",
        defaults=Defaults(epochs=20, batch_size=256, learning_rate=0.005, weight_decay=0.1),
        settings={
            "width": Setting(least=1, most=4096, default=16, about="length of an embedding"),
            "hidden": Setting(least=1, most=16384, default=32, about="width of the hidden layer"),
        },
    ),
    RecipeInfo(
        name="risk_model",
        data="table",
        about="a network over a table's columns that foretells a class, and how likely it is",
        takes="a .csv file with a header; --target names the column to foretell (default: target, label or the last)",
        defaults=Defaults(epochs=20, batch_size=128, learning_rate=0.003),
        settings={"hidden": _HIDDEN, "layers": _LAYERS},
    ),
)

RECIPES: Final[Mapping[str, RecipeInfo]] = {each.name: each for each in _ALL}
