"""A rank's share of a batch: cut into parts, and stood in for where there is none."""

from collections.abc import Iterator

import torch
from torch import Tensor


def parts_of(inputs: Tensor, targets: Tensor, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Exactly `parts` pieces, also of fewer samples: ranks that gather weights together pass equally often."""
    yield from zip(torch.tensor_split(inputs, parts), torch.tensor_split(targets, parts), strict=True)


def stand_in(inputs: Tensor) -> Tensor:
    """Two harmless samples shaped like those of `inputs`, for a rank that has none but must take part.

    Models need not cope with empty batches (`x.view(len(x), -1)` does not), nor with single samples (batch
    normalisation does not). The numbers rise from 0 to 1, for constant
    samples are what normalisations divide by zero at; whole numbers are 0, which is an index everywhere.
    """
    shape = (2, *inputs.shape[1:])
    if not inputs.is_floating_point():
        return torch.zeros(shape, dtype=inputs.dtype, device=inputs.device)
    count = max(int(torch.Size(shape).numel()), 1)
    return torch.linspace(0, 1, count, device=inputs.device).to(inputs.dtype).reshape(shape)


def nothing(outputs: Tensor) -> Tensor:
    """A loss of 0 whose gradients are 0, through all of the model."""
    return outputs.float().sum() * 0.0
