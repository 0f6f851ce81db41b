"""The `recommender` architecture: embeddings of users and items, their product, and a small network over all three.

He et al.: Neural Collaborative Filtering, 2017.
"""

from collections import OrderedDict

import torch
from torch import nn

from lepton.models.settings import RecommenderConfig


class Pairs(nn.Module):
    """What is known of a user, of an item, and of how they go together."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.user = nn.Embedding(config.users, config.width)
        self.item = nn.Embedding(config.items, config.width)
        self.bias_user = nn.Embedding(config.users, 1)
        self.bias_item = nn.Embedding(config.items, 1)
        for each in (self.user, self.item):
            nn.init.normal_(each.weight, std=0.1)
        for each in (self.bias_user, self.bias_item):
            nn.init.zeros_(each.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x (3 width + 2) of N x 2 numbers of user and item."""
        user, item = self.user(x[:, 0]), self.item(x[:, 1])
        return torch.cat([user, item, user * item, self.bias_user(x[:, 0]), self.bias_item(x[:, 1])], dim=1)


class Rating(nn.Module):
    """The mean rating, both biases, the product of the embeddings, and what the network adds."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.width = config.width
        self.linear = nn.Linear(config.hidden, 1)
        nn.init.zeros_(self.linear.weight)
        self.register_buffer("mean", torch.zeros(1))

    def set(self, mean: torch.Tensor) -> None:
        """Sets the mean rating."""
        self.get_buffer("mean").copy_(mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 1."""
        hidden, pairs = x[:, : self.linear.in_features], x[:, self.linear.in_features :]
        product = pairs[:, 2 * self.width : 3 * self.width].sum(1, keepdim=True)
        biases = pairs[:, 3 * self.width :].sum(1, keepdim=True)
        output: torch.Tensor = self.get_buffer("mean") + biases + product + self.linear(hidden)
        return output


class Beside(nn.Module):
    """Features of a pair from two hidden layers, with what they were made from behind them."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(3 * config.width + 2, config.hidden)
        self.down = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x (hidden + inputs) of N x inputs."""
        return torch.cat([torch.relu(self.down(torch.relu(self.up(x)))), x], dim=1)


def recommender(config: RecommenderConfig) -> nn.Sequential:
    """The chain from pairs (int64, N x 2) to ratings (N x 1)."""
    return nn.Sequential(OrderedDict(pairs=Pairs(config), hidden=Beside(config), output=Rating(config)))
