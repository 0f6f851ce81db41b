"""The `language_model` architecture: a small GPT, pre-normalised, with learned positions.

Radford et al.: Language Models are Unsupervised Multitask Learners, 2019.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from lepton.models.settings import LanguageModelConfig


class TokenEmbedding(nn.Module):
    """What each token means and where it stands."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.place = nn.Embedding(config.context, config.width)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x T x width of N x T token numbers."""
        places = torch.arange(x.shape[1], device=x.device)
        output: torch.Tensor = self.token(x) + self.place(places)
        return output


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x T x width of the same; each place sees itself and what lies before it."""
        # Heads are counted from what arrives: under tensor parallelism a rank holds some of them.
        query, key, value = (
            each(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: torch.Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return output


class Perceptron(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        output: torch.Tensor = self.down(functional.gelu(self.up(x)))
        return output


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to what came in."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.before_perceptron = nn.LayerNorm(config.width)
        self.perceptron = Perceptron(config.width)
        for last in (self.attention.project, self.perceptron.down):
            nn.init.normal_(last.weight, std=0.02 / (2 * config.layers) ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        x = x + self.attention(self.before_attention(x))
        output: torch.Tensor = x + self.perceptron(self.before_perceptron(x))
        return output


def language_model(config: LanguageModelConfig) -> nn.Sequential:
    """The chain from token numbers (int64, N x T) to the logits of each next token (N x T x vocabulary)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(embed=TokenEmbedding(config))
    for index in range(config.layers):
        layers[f"block{index}"] = Block(config)
    layers["normalise"] = nn.LayerNorm(config.width)
    layers["output"] = nn.Linear(config.width, config.vocabulary, bias=False)
    return nn.Sequential(layers)
