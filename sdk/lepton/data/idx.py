"""IDX files, the format of MNIST and its relatives: one file of images and one of labels, plain or gzipped."""

import math
import re
from pathlib import Path
from typing import Final

import numpy as np

from lepton.data.dataset import Dataset
from lepton.data.images import canonical
from lepton.data.limits import Array, content_of, invalid

_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IMAGES: Final = re.compile(r"^(?P<prefix>.*?)[-_.]?images[-.]idx3[-.]ubyte(\.gz)?$")
_TRAIN: Final = ("train", "training")
_TEST: Final = ("t10k", "test", "testing")


def idx(images: Path, labels: Path) -> Dataset:
    """The images and labels of two IDX files, plain or gzipped."""
    x, y = _read(images), _read(labels)
    if y.ndim != 1:
        raise invalid(labels, f"holds {y.ndim} dimensions; name a file of one label per image")
    return canonical(images, x, y)


def idx_folder(folder: Path) -> Dataset | None:
    """The pairs `*-images-idx3-ubyte[.gz]` and `*-labels-idx1-ubyte[.gz]` of a folder, whatever they begin with.

    Of a pair `train-` and a pair `t10k-` or `test-` the latter is the test set; any other two pairs are too many.
    None when there is no such file.
    """
    found = {match["prefix"]: path for path in sorted(folder.iterdir()) if (match := _IMAGES.match(path.name))}
    if not found:
        return None
    if len(found) == 1:
        (images,) = found.values()
        return idx(images, labels_beside(images))
    train = [path for prefix, path in found.items() if _ends(prefix, _TRAIN)]
    test = [path for prefix, path in found.items() if _ends(prefix, _TEST)]
    if len(train) != 1 or len(test) != 1 or len(found) != 2:
        names = ", ".join(path.name for path in found.values())
        raise invalid(folder, f"holds {names}; leave one pair, or one that begins with train- and one with t10k-")
    first, second = idx(train[0], labels_beside(train[0])), idx(test[0], labels_beside(test[0]))
    return canonical(folder, first.x, first.y, second.x, second.y)


def labels_beside(images: Path) -> Path:
    """The label file that belongs to an image file, by its name."""
    beside = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == images:
        raise invalid(
            images, "has no 'images' in its name, so its label file cannot be guessed; name the label file too"
        )
    if not beside.is_file():
        other = beside.with_name(beside.name.removesuffix(".gz") if beside.suffix == ".gz" else f"{beside.name}.gz")
        return other if other.is_file() else beside
    return beside


def _ends(prefix: str, words: tuple[str, ...]) -> bool:
    return re.split(r"[-_.]", prefix.lower())[-1] in words


def _read(path: Path) -> Array:
    content = content_of(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise invalid(path, "is not an IDX file; name one such as train-images-idx3-ubyte.gz, or an .npz archive")
    kind, rank = np.dtype(_TYPES[content[2]]), content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4 : 4 + 4 * rank][: len(content[4:]) // 4 * 4], ">u4"))
    body = memoryview(content)[4 + 4 * rank :]
    if len(shape) != rank or len(body) != math.prod(shape) * kind.itemsize:
        raise invalid(path, f"announces the shape {shape} but holds {len(body)} bytes; download it again")
    return np.frombuffer(body, kind).reshape(shape).astype(kind.newbyteorder("="))
