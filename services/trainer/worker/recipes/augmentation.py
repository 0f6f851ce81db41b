"""Random shifts and turns of images, drawn for the global batch, so that the ranks' number changes nothing."""

import math

import torch
from torch.nn import functional

from lepton.train.sampler import Batch


def shifted(images: torch.Tensor, batch: Batch, *, seed: int, pixels: int) -> torch.Tensor:
    """This rank's images of the batch, each moved by up to `pixels` in both directions, zeros moving in."""
    if pixels == 0 or len(images) == 0:
        return images
    moves = torch.randint(0, 2 * pixels + 1, (batch.size, 2), generator=_generator(seed, batch, 0))
    moves = moves[batch.start : batch.stop]
    padded = functional.pad(images, (pixels,) * 4)
    height, width = images.shape[2:]
    rows = (moves[:, :1] + torch.arange(height))[:, None, :, None]
    columns = (moves[:, 1:] + torch.arange(width))[:, None, None, :]
    samples = torch.arange(len(images))[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return padded[samples, channels, rows, columns]


def turned(images: torch.Tensor, batch: Batch, *, seed: int, degrees: float, stretch: float = 0.1) -> torch.Tensor:
    """This rank's images, each turned by up to `degrees` and stretched by up to a share in each direction."""
    if degrees == 0 or len(images) == 0:
        return images
    drawn = torch.rand(batch.size, 3, generator=_generator(seed, batch, 1))[batch.start : batch.stop] * 2 - 1
    angles, scales = drawn[:, 0] * math.radians(degrees), 1 + stretch * drawn[:, 1:]
    cosine, sine, nothing = torch.cos(angles), torch.sin(angles), torch.zeros(len(images))
    height, width = images.shape[2:]
    across, up = cosine / scales[:, 0], cosine / scales[:, 1]
    rows = torch.stack([across, -sine * height / width, nothing, sine * width / height, up, nothing], dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _generator(seed: int, batch: Batch, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + batch.step + purpose * 7_919_000_003) & (2**63 - 1))
