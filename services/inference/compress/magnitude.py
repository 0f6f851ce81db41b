"""Unstructured pruning: the smallest weights are set to zero and stay zero while the rest is retuned.

Han, Pool, Tran and Dally: Learning both Weights and Connections for Efficient Neural Networks, 2015. The tensors keep
their shapes and a CPU multiplies the zeros as well: what it brings is a package that compresses better, and no speed.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def masks(model: nn.Module, fraction: float) -> dict[str, Tensor]:
    """Of every weight matrix which numbers stay: all but the smallest fraction of each."""
    found: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue  # biases and norms are few, and matter
        going = int(weight.numel() * fraction)
        if going:
            limit = weight.detach().abs().flatten().kthvalue(going).values
            found[name] = weight.detach().abs() > limit
    return found


def held(model: nn.Module, kept: dict[str, Tensor]) -> Callable[[], None]:
    """Sets what does not stay to zero, and answers the call that does so again after a step of an optimiser."""

    def hold() -> None:
        with torch.no_grad():
            for name, mask in kept.items():
                model.get_parameter(name).mul_(mask)

    hold()
    return hold
