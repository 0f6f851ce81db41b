"""The `text_classifier` architecture: embedded tokens, one convolution over them, the largest of each feature."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from lepton.models.layers import Hidden
from lepton.models.settings import TextClassifierConfig


class Phrases(nn.Module):
    """Features of three neighbouring tokens, and of each feature the largest, beside the mean of the tokens.

    Kim: Convolutional Neural Networks for Sentence Classification, 2014; the convolution is a linear layer over three
    tokens side by side.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 2 width of N x length x width."""
        padded = functional.pad(x, (0, 0, 1, 1))
        features = torch.relu(self.linear(torch.cat([padded[:, :-2], x, padded[:, 2:]], dim=2)))
        return torch.cat([features.amax(1), x.mean(1)], dim=1)


def text_classifier(config: TextClassifierConfig) -> nn.Sequential:
    """The chain from token numbers (int64, N x length; 0 = none) to logits (N x classes)."""
    embed = nn.Embedding(config.vocabulary, config.width, padding_idx=0)
    with torch.no_grad():
        embed.weight.mul_(0.3)  # of so many rows few are seen often; small ones disturb the less
    return nn.Sequential(
        OrderedDict(
            embed=embed,
            phrases=Phrases(config.width),
            hidden=Hidden(2 * config.width, config.width),
            output=nn.Linear(config.width, config.classes),
        )
    )
