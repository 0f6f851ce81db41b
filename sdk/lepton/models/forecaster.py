"""The `forecaster` architecture: a linear forecast of each series, mended by a small network over all of them."""

from collections import OrderedDict

import torch
from torch import nn

from lepton.models.layers import Normalise
from lepton.models.settings import ForecasterConfig


class Mixed(nn.Module):
    """Each series relative to its last value, and features of all series together behind it."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        inputs = config.window * config.series
        self.up = nn.Linear(inputs, config.hidden)
        self.across = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x (window x series + hidden + series): the relative past, the features, the last values."""
        last = x[:, -1:]
        past = (x - last).flatten(1)
        features = torch.relu(self.across(torch.relu(self.up(past))))
        return torch.cat([past, features, last.flatten(1)], dim=1)


class Forecast(nn.Module):
    """The last value and what a linear layer adds to it, in the units that the series came in.

    Zeng, Chen, Zhang and Xu: Are Transformers Effective for Time Series Forecasting?, 2023 (its NLinear).
    """

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.horizon, self.series = config.horizon, config.series
        self.linear = nn.Linear(config.window * config.series + config.hidden, config.horizon * config.series)
        with torch.no_grad():
            self.linear.weight.mul_(0.1)
        self.register_buffer("mean", torch.zeros(config.series))
        self.register_buffer("spread", torch.ones(config.series))

    def set(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Sets the units."""
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("spread").copy_(spread)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x horizon x series of what `Mixed` gives."""
        known, last = x[:, : -self.series], x[:, None, -self.series :]
        forecast = last + self.linear(known).unflatten(1, (self.horizon, self.series))
        output: torch.Tensor = forecast * self.get_buffer("spread") + self.get_buffer("mean")
        return output


def forecaster(config: ForecasterConfig) -> nn.Sequential:
    """The chain from past values (float32, N x window x series) to coming ones (N x horizon x series)."""
    return nn.Sequential(
        OrderedDict(normalise=Normalise((1, config.series)), mixed=Mixed(config), output=Forecast(config))
    )
