"""Layers that several architectures are chained of; each takes one tensor and gives one."""

from collections.abc import Sequence

import torch
from torch import nn


class Normalise(nn.Module):
    """Shifts and divides by statistics that are part of the weights; they have the shape of one sample, or fit it."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, *shape))
        self.register_buffer("spread", torch.ones(1, *shape))

    def set(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Sets what is shifted by and divided by."""
        self.get_buffer("mean").copy_(mean.view_as(self.get_buffer("mean")))
        self.get_buffer("spread").copy_(spread.view_as(self.get_buffer("spread")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape, normalised."""
        return (x - self.get_buffer("mean")) / self.get_buffer("spread")


class Hidden(nn.Module):
    """A linear layer and a ReLU, over samples that are flattened first."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x width of anything that flattens to N x inputs."""
        return torch.relu(self.linear(x.flatten(1)))


class Heads(nn.Module):
    """Several linear heads over one trunk; their outputs stand side by side."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.Linear(inputs, width) for width in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x sum(widths) of N x inputs."""
        return torch.cat([head(x) for head in self.each], dim=1)
