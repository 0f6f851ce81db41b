"""Students: the architecture of a smaller model of the same recipe, which the original teaches."""

from collections.abc import Mapping
from typing import Final

from lepton.models import Architecture

_WIDTHS: Final[Mapping[str, tuple[str, ...]]] = {
    "image_classifier": ("features", "hidden"),
    "text_classifier": ("width",),
    "language_model": ("width",),
    "forecaster": ("hidden",),
    "recommender": ("width", "hidden"),
    "risk_model": ("hidden",),
}
_LEAST: Final = 4


def student(architecture: Architecture, factor: float) -> Architecture:
    """The architecture with its widths smaller by a factor; what comes in and goes out stays as it is."""
    config = dict(architecture.config)
    for name in _WIDTHS[architecture.name]:
        value = config.get(name)
        if isinstance(value, int):
            config[name] = max(_LEAST, round(value * factor))
    heads, width = config.get("heads"), config.get("width")
    if isinstance(heads, int) and isinstance(width, int):  # a transformer's heads divide its width
        config["width"] = max(heads, width // heads * heads)
    return Architecture(name=architecture.name, config=config).complete()
