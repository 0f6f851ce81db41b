"""Model architectures by name, and the package in which a trained model travels; torch is loaded only to build one.

Every architecture is a chain: an `nn.Sequential` of named layers, each of which takes one tensor and gives one, the
last of them called `output`. So what comes before `output` is a trunk that can be shared, and any slice is a stage.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lepton.errors import InvalidArgument
from lepton.models.architecture import NAMES, Architecture, Config, ImageClassifierConfig
from lepton.models.package import ModelPackage, Signature, Tensor
from lepton.models.wanted import (
    Forecaster,
    ImageClassifier,
    LanguageModel,
    Recommender,
    RiskModel,
    TextClassifier,
    Wanted,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "NAMES", "Architecture", "Config", "Forecaster", "ImageClassifier", "ImageClassifierConfig", "LanguageModel",
    "ModelPackage", "Recommender", "RiskModel", "Signature", "Tensor", "TextClassifier", "Wanted", "build",
]  # fmt: skip


def build(architecture: Architecture | None) -> "nn.Sequential":
    """A fresh torch module of the architecture; InvalidArgument when its config is not known, or there is no recipe."""
    if architecture is None:
        problem = "it has no recipe: it is an ONNX or pt2 file, which can be run and not rebuilt"
        raise InvalidArgument("MODEL_PACKAGE_INVALID", problem=problem)
    config = architecture.resolve()
    module = import_module(f"{__name__}.{architecture.name}")  # torch takes seconds to import: only who builds pays
    model: nn.Sequential = getattr(module, architecture.name)(config)
    return model
