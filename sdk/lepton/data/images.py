"""Arrays of pixels and labels as users have them, brought into the canonical form."""

from pathlib import Path

import numpy as np

from lepton.data.dataset import Dataset
from lepton.data.limits import Array, invalid
from lepton.errors import InvalidArgument


def canonical(path: Path, x: Array, y: Array, x_test: Array | None = None, y_test: Array | None = None) -> Dataset:
    """The dataset of pixels (N x H x W, channels first or last) and labels; errors name the file."""
    if (x_test is None) != (y_test is None):
        raise invalid(path, "has only one of x_test and y_test; save both or none")
    held_out = None if x_test is None or y_test is None else (_pixels(x_test), _labels(path, y_test))
    pixels, labels = _pixels(x), _labels(path, y)
    if len(pixels) != len(labels):
        raise invalid(path, f"has {len(pixels)} images but {len(labels)} labels; give one label per image")
    if held_out is not None and pixels.dtype != held_out[0].dtype:
        pixels, held_out = pixels.astype(np.float32), (held_out[0].astype(np.float32), held_out[1])
    try:
        if held_out is None:
            return Dataset(x=pixels, y=labels)
        return Dataset(x=pixels, y=labels, x_test=held_out[0], y_test=held_out[1])
    except InvalidArgument as error:
        raise invalid(path, error.metadata["problem"]) from error


def _pixels(x: Array) -> Array:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)  # channels last, as Keras and most archives have them
    if x.dtype.kind not in "biuf":
        return x  # Dataset says what is wrong with it
    with np.errstate(over="ignore"):  # too large becomes infinite, which Dataset refuses
        return np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32))


def _labels(path: Path, y: Array) -> Array:
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if not np.issubdtype(y.dtype, np.integer):
        raise invalid(path, f"has labels of type {y.dtype} and shape {y.shape}; save class numbers as integers")
    return y.astype(np.int64)
