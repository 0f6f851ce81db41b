"""The built-in models as a client names them: `lepton.models.ImageClassifier(hidden=128)`; free of torch.

Such a value says which recipe trains the model and with which settings; the ranks build the model itself.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from lepton.recipes import recipe


@dataclass(frozen=True, slots=True, init=False)
class Wanted:
    """A model of a recipe with some of its settings chosen; InvalidArgument naming a setting that is wrong."""

    recipe: ClassVar[str] = ""
    settings: dict[str, Any]

    def __init__(self, **settings: int | float) -> None:
        recipe(self.recipe).complete(settings)
        object.__setattr__(self, "settings", dict(settings))


class ImageClassifier(Wanted):
    """A small convolutional network: features, hidden, poolings, shift_pixels, turn_degrees."""

    recipe = "image_classifier"


class TextClassifier(Wanted):
    """A convolutional network over hashed words: vocabulary, length, width."""

    recipe = "text_classifier"


class LanguageModel(Wanted):
    """A small GPT over bytes: context, width, layers, heads."""

    recipe = "language_model"


class Forecaster(Wanted):
    """A network that continues time series: window, horizon, hidden."""

    recipe = "forecaster"


class Recommender(Wanted):
    """Embeddings of users and items: width, hidden."""

    recipe = "recommender"


class RiskModel(Wanted):
    """A network over a table's columns: hidden, layers."""

    recipe = "risk_model"
