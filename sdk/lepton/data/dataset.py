"""The canonical labelled image dataset, its safetensors form and its seeded division into two parts."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lepton.errors import InvalidArgument

Array = npt.NDArray[Any]
_PIXELS: Final = (np.dtype(np.uint8), np.dtype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Images `x` (uint8 or float32, N x C x H x W) with labels `y` (int64, N) from 0 to classes - 1."""

    x: Array
    y: Array

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise InvalidArgument("DATASET_INVALID", problem=problem)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def classes(self) -> int:
        """How many classes the labels count to."""
        return int(self.y.max()) + 1

    def _problem(self) -> str:
        if self.x.ndim != 4 or self.x.dtype not in _PIXELS:
            return f"x is {self.x.dtype} of shape {self.x.shape}; make it uint8 or float32 of shape (N, C, H, W)"
        if self.y.shape != self.x.shape[:1] or self.y.dtype != np.int64:
            return f"y is {self.y.dtype} of shape {self.y.shape}; make it int64 of shape ({len(self.x)},)"
        if len(self.y) < 2 or 0 in self.x.shape:
            return f"x has shape {self.x.shape}; give at least two images, none of them empty"
        if self.y.min() < 0:
            return f"y holds the label {self.y.min()}; number the classes from 0"
        if self.x.dtype == np.float32 and not np.isfinite(self.x).all():
            return "x holds NaN or infinite values; remove or replace those images"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which samples are trained on and which are held out, as disjoint index arrays that cover the dataset."""

    train: Array
    test: Array


def to_safetensors(dataset: Dataset) -> bytes:
    """The dataset as the bytes of one safetensors file with the tensors `x` and `y`; equal ones give equal bytes."""
    return bytes(save_tensors({"x": np.ascontiguousarray(dataset.x), "y": np.ascontiguousarray(dataset.y)}))


def from_safetensors(data: bytes) -> Dataset:
    """The dataset that `to_safetensors` wrote."""
    try:
        tensors = load_tensors(data)
        return Dataset(x=tensors["x"], y=tensors["y"])
    except (SafetensorError, KeyError) as error:
        raise InvalidArgument(
            "DATASET_INVALID", problem=f"not a safetensors file with the tensors x and y ({error}); convert it again"
        ) from error


def split(count: int, *, test_fraction: float, seed: int) -> Split:
    """Divides `count` samples; the same arguments give the same division; neither part is empty."""
    if count < 2 or not 0 < test_fraction < 1:
        raise InvalidArgument(
            "INVALID_FIELD", fields={"test_fraction": "must lie between 0 and 1, of at least two samples"}
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    held_out = min(max(round(count * test_fraction), 1), count - 1)
    return Split(train=np.sort(order[held_out:]), test=np.sort(order[:held_out]))
