"""Random shifts of images, drawn for the global batch, so that no image depends on how many ranks there are."""

import torch
from torch.nn import functional

from lepton.train.sampler import Batch


def shifted(images: torch.Tensor, batch: Batch, *, seed: int, pixels: int) -> torch.Tensor:
    """This rank's images of the batch, each moved by up to `pixels` in both directions, zeros moving in."""
    if pixels == 0 or len(images) == 0:
        return images
    generator = torch.Generator().manual_seed((seed * 1_000_003 + batch.step) & (2**63 - 1))
    moves = torch.randint(0, 2 * pixels + 1, (batch.size, 2), generator=generator)[batch.start : batch.stop]
    padded = functional.pad(images, (pixels,) * 4)
    height, width = images.shape[2:]
    rows = (moves[:, :1] + torch.arange(height))[:, None, :, None]
    columns = (moves[:, 1:] + torch.arange(width))[:, None, None, :]
    samples = torch.arange(len(images))[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return padded[samples, channels, rows, columns]
