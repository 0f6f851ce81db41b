"""Where image datasets come from: scikit-learn's digits, IDX files as MNIST has them, and NumPy archives."""

import gzip
import math
import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np

from lepton.data.dataset import Array, Dataset
from lepton.errors import InvalidArgument, NotFound

_IDX_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NPZ_NAMES: Final = (("x", "y"), ("images", "labels"), ("X", "Y"), ("data", "target"))
_NPZ_PARTS: Final = ("x_train", "y_train", "x_test", "y_test")


def load(source: str, labels: str | None = None) -> Dataset:
    """The dataset that a user names: `digits`, an NPZ archive, or an IDX image file with its label file beside it."""
    if source == "digits":
        return digits()
    path = Path(source)
    if path.suffix == ".npz":
        return npz(path)
    return idx(path, Path(labels) if labels else _labels_beside(path))


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 17 grey levels, in 10 classes."""
    from sklearn.datasets import load_digits  # heavy, and only this source needs it

    bunch = load_digits()
    return Dataset(x=bunch.images[:, None].astype(np.uint8), y=bunch.target.astype(np.int64))


def idx(images: Path, labels: Path) -> Dataset:
    """The images and labels of two IDX files, plain or gzipped."""
    x, y = _read_idx(images), _read_idx(labels)
    if y.ndim != 1:
        raise _invalid(labels, f"holds {y.ndim} dimensions; name a file of one label per image")
    return _canonical(images, x, y)


def npz(path: Path) -> Dataset:
    """The arrays x and y (or images/labels, data/target, or Keras's x_train .. y_test joined) of a NumPy archive."""
    try:
        with np.load(_existing(path), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise _invalid(
            path, f"is not a readable NPZ archive of plain arrays ({error}); save it with numpy.savez"
        ) from error
    if all(name in arrays for name in _NPZ_PARTS):
        x = np.concatenate([arrays["x_train"], arrays["x_test"]])
        y = np.concatenate([arrays["y_train"], arrays["y_test"]])
        return _canonical(path, x, y)
    for x_name, y_name in _NPZ_NAMES:
        if x_name in arrays and y_name in arrays:
            return _canonical(path, arrays[x_name], arrays[y_name])
    raise _invalid(path, f"holds the arrays {sorted(arrays)}; save the images as 'x' and the labels as 'y'")


def _canonical(path: Path, x: Array, y: Array) -> Dataset:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)  # channels last, as Keras and most archives have them
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if not np.issubdtype(y.dtype, np.integer):
        raise _invalid(path, f"has labels of type {y.dtype} and shape {y.shape}; save class numbers as integers")
    if len(x) != len(y):
        raise _invalid(path, f"has {len(x)} images but {len(y)} labels; give one label per image")
    with np.errstate(over="ignore"):  # too large becomes infinite, which Dataset refuses
        pixels = np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32))
    try:
        return Dataset(x=pixels, y=y.astype(np.int64))
    except InvalidArgument as error:
        raise _invalid(path, error.metadata["problem"]) from error


def _read_idx(path: Path) -> Array:
    content = _existing(path).read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise _invalid(path, f"is a damaged gzip file ({error}); download it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise _invalid(path, "is not an IDX file; name one such as train-images-idx3-ubyte.gz, or an .npz archive")
    kind, rank = np.dtype(_IDX_TYPES[content[2]]), content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4 : 4 + 4 * rank], ">u4"))
    body = content[4 + 4 * rank :]
    if len(shape) != rank or len(body) != math.prod(shape) * kind.itemsize:
        raise _invalid(path, f"announces the shape {shape} but holds {len(body)} bytes; download it again")
    return np.frombuffer(body, kind).reshape(shape).astype(kind.newbyteorder("="))


def _labels_beside(images: Path) -> Path:
    beside = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == images:
        raise _invalid(
            images, "has no 'images' in its name, so its label file cannot be guessed; name the label file too"
        )
    return beside


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise NotFound("FILE_NOT_FOUND", file=str(path))
    return path


def _invalid(path: Path, problem: str) -> InvalidArgument:
    return InvalidArgument("DATASET_INVALID", problem=f"{path} {problem}", file=str(path))
