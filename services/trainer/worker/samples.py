"""The samples of a run as tensors, taken by number, and which of them are for what."""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from lepton.data import Parts


class Samples(Protocol):
    """Samples by number, in memory."""

    def take(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs and the targets of those samples, each with the samples first."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Samples that are rows of two tensors; whole numbers of 8 bits become float32 when they are taken."""

    x: Tensor
    y: Tensor

    def take(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """See Samples."""
        x = self.x[numbers]
        return (x.float() if x.dtype == torch.uint8 else x), self.y[numbers]


@dataclass(frozen=True, slots=True)
class Windows:
    """Samples that are windows of one long tensor: `length` of it are the input, and the target lies after a shift.

    Of text the target is the input one further (`shift` 1, as long as the input); of series it is what follows.
    """

    stream: Tensor
    starts: Tensor
    length: int
    shift: int
    ahead: int

    def take(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """See Samples."""
        starts = self.starts[numbers][:, None]
        x = self.stream[starts + torch.arange(self.length)]
        y = self.stream[starts + self.shift + torch.arange(self.ahead)]
        return (x.long(), y.long()) if x.dtype == torch.uint8 else (x, y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Numbers of the samples that are trained on, chosen by, and measured on."""

    train: Tensor
    validation: Tensor
    test: Tensor

    @classmethod
    def of(cls, parts: Parts) -> Self:
        """The division that index arrays make."""
        train, validation, test = (
            torch.from_numpy(np.ascontiguousarray(each)) for each in (parts.train, parts.validation, parts.test)
        )
        return cls(train=train, validation=validation, test=test)
