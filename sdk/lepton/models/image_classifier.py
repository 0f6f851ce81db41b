"""The `image_classifier` architecture: a small convolutional network that normalises raw pixels itself."""

from collections import OrderedDict
from collections.abc import MutableMapping
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from lepton.models.layers import Heads, Hidden, Normalise
from lepton.models.settings import ImageClassifierConfig

_NAMES: Final = ("first", "second", "third", "fourth")
_FORMERLY: Final = {
    "mean": "normalise.mean",
    "spread": "normalise.spread",
    **{f"{name}.{part}": f"{name}.convolution.{part}" for name in _NAMES for part in ("weight", "bias")},
    **{f"hidden.{part}": f"hidden.linear.{part}" for part in ("weight", "bias")},
}


class Stage(nn.Module):
    """A convolution of 3 x 3, a ReLU, and a pooling that halves height and width or none."""

    def __init__(self, channels: int, features: int, *, is_pooled: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, features, kernel_size=3, padding=1)
        self.is_pooled = is_pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x features x H x W, or half of H and W."""
        x = self.convolution(x)
        return torch.relu(functional.max_pool2d(x, 2) if self.is_pooled else x)  # in this order for fewer elements


def image_classifier(config: ImageClassifierConfig) -> nn.Sequential:
    """The chain from float32 images (N x C x H x W) to logits (N x classes)."""
    stages = max(config.poolings, 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise((config.channels, 1, 1)))
    channels = config.channels
    for index in range(stages):
        features = config.features << index
        layers[_NAMES[index]] = Stage(channels, features, is_pooled=index >= stages - config.poolings)
        channels = features
    pooled = (config.height >> config.poolings) * (config.width >> config.poolings)
    layers["hidden"] = Hidden(channels * pooled, config.hidden)
    layers["output"] = Heads(config.hidden, config.heads) if config.heads else nn.Linear(config.hidden, config.classes)
    model = nn.Sequential(layers)
    model.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]  # torch's own
    return model


def _rename(_module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: Any) -> None:
    # Packages of the first release name the same weights otherwise.
    for old, new in _FORMERLY.items():
        if f"{prefix}{old}" in state:
            state[f"{prefix}{new}"] = state.pop(f"{prefix}{old}")
