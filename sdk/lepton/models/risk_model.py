"""The `risk_model` architecture: numbers normalised, categories embedded, gaps marked, then a small network."""

from collections import OrderedDict
from typing import Final

import torch
from torch import nn

from lepton.models.layers import Hidden
from lepton.models.settings import RiskModelConfig

_WIDEST: Final = 16


class Columns(nn.Module):
    """A row of numbers and category numbers, NaN where there is none, as what a network can work with."""

    def __init__(self, columns: tuple[int, ...]) -> None:
        super().__init__()
        self.numbers = [index for index, categories in enumerate(columns) if not categories]
        self.categories = [index for index, categories in enumerate(columns) if categories]
        self.sizes = sizes = [columns[index] for index in self.categories]
        widths = [min(_WIDEST, (size + 3) // 2) for size in sizes]
        # The last row of each stands for what is missing or was never seen.
        self.embed = nn.ModuleList(nn.Embedding(size + 1, width) for size, width in zip(sizes, widths, strict=True))
        self.register_buffer("mean", torch.zeros(len(self.numbers)))
        self.register_buffer("spread", torch.ones(len(self.numbers)))
        self.width = 2 * len(self.numbers) + sum(widths)

    def set(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Sets the statistics of the columns of numbers."""
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("spread").copy_(spread)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x width of N x columns."""
        known = []
        if self.numbers:
            values = (x[:, self.numbers] - self.get_buffer("mean")) / self.get_buffer("spread")
            missing = torch.isnan(values)
            known += [torch.where(missing, 0.0, values).clamp(-8.0, 8.0), missing.to(x.dtype)]
        for index, size, embedding in zip(self.categories, self.sizes, self.embed, strict=True):
            column, last = x[:, index], size
            is_known = (column >= 0) & (column < last)  # false for NaN as well
            known.append(embedding(torch.where(is_known, column, float(last)).long()))
        return torch.cat(known, dim=1)


def risk_model(config: RiskModelConfig) -> nn.Sequential:
    """The chain from rows (float32, N x columns) to logits (N x classes)."""
    columns = Columns(config.columns)
    layers: OrderedDict[str, nn.Module] = OrderedDict(columns=columns)
    inputs = columns.width
    for index in range(config.layers):
        layers[f"hidden{index}"] = Hidden(inputs, config.hidden)
        inputs = config.hidden
    layers["output"] = nn.Linear(inputs, config.classes)
    return nn.Sequential(layers)
