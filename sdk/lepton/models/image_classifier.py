"""The `image_classifier` architecture: a small convolutional network that normalises raw pixels itself."""

import torch
from torch import nn
from torch.nn import functional

from lepton.models.architecture import ImageClassifierConfig


class ImageClassifier(nn.Module):
    """Two convolutions, a pooling and two linear layers; the input's mean and spread are part of the weights."""

    def __init__(self, config: ImageClassifierConfig) -> None:
        super().__init__()
        features, pooled = config.features, (config.height // 2) * (config.width // 2)
        self.register_buffer("mean", torch.zeros(1, config.channels, 1, 1))
        self.register_buffer("spread", torch.ones(1, config.channels, 1, 1))
        self.first = nn.Conv2d(config.channels, features, kernel_size=3, padding=1)
        self.second = nn.Conv2d(features, 2 * features, kernel_size=3, padding=1)
        self.hidden = nn.Linear(2 * features * pooled, config.hidden)
        self.output = nn.Linear(config.hidden, config.classes)

    def normalise(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Sets what each channel is shifted by and divided by before anything else sees it."""
        self.get_buffer("mean").copy_(mean.view(1, -1, 1, 1))
        self.get_buffer("spread").copy_(spread.view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits (N x classes) of float32 images (N x C x H x W)."""
        x = (x - self.get_buffer("mean")) / self.get_buffer("spread")
        x = functional.relu(self.first(x))
        x = functional.relu(self.second(x))
        x = functional.max_pool2d(x, 2).flatten(1)
        return torch.as_tensor(self.output(functional.relu(self.hidden(x))))
