"""Model architectures by name, and the package in which a trained model travels; torch is loaded only to build one."""

from typing import TYPE_CHECKING

from lepton.models.architecture import NAMES, Architecture, ImageClassifierConfig
from lepton.models.package import ModelPackage, Signature, Tensor

if TYPE_CHECKING:
    import torch

__all__ = ["NAMES", "Architecture", "ImageClassifierConfig", "ModelPackage", "Signature", "Tensor", "build"]


def build(architecture: Architecture) -> "torch.nn.Module":
    """A fresh torch module of the architecture; InvalidArgument when the name or its config is not known."""
    config = architecture.resolve()
    from lepton.models.image_classifier import ImageClassifier  # torch takes seconds to import: only who builds pays

    return ImageClassifier(config)
