"""Model architectures by name, and the package in which a trained model travels; torch is loaded only to build one.

Every architecture is a chain: an `nn.Sequential` of named layers, each of which takes one tensor and gives one, the
last of them called `output`. So what comes before `output` is a trunk that can be shared, and any slice is a stage.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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


def build(architecture: Architecture) -> "nn.Sequential":
    """A fresh torch module of the architecture; InvalidArgument when the name or its config is not known."""
    config = architecture.resolve()
    module = import_module(f"{__name__}.{architecture.name}")  # torch takes seconds to import: only who builds pays
    model: nn.Sequential = getattr(module, architecture.name)(config)
    return model
