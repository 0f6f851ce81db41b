"""Folders of PNG and JPEG files, one for each class, with `train` and `test` above them or not."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from lepton.data.dataset import Dataset
from lepton.data.limits import LARGEST_BYTES, MOST_FILES, Array, as_labels, files_below, folders_below, invalid
from lepton.errors import FailedPrecondition

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS: Final = (".png", ".jpg", ".jpeg")
_MOST_PIXELS: Final = 64 << 20  # of one file: more is not decoded
_MOST_SIDE: Final = 256  # larger pictures are reduced to this

Files = Sequence[tuple[Path, str]]


def pictures(folder: Path) -> Dataset:
    """The pictures of a folder, each class in a folder of its own that names it.

    All get one size: that of the most, but 256 pixels a side at most; other sizes are resized. They are grey where all
    are, else coloured.
    """
    is_parted = (folder / "train").is_dir()
    train = _files(folder / "train" if is_parted else folder)
    test = _files(folder / "test") if is_parted and (folder / "test").is_dir() else []
    everything = [*train, *test]
    if len(everything) > MOST_FILES:
        raise invalid(folder, f"holds more than {MOST_FILES} pictures; give a part of it")
    labels, names = as_labels([name for _, name in everything])
    if len(names) < 2:
        raise invalid(folder, f"holds the one class {names[0]!r}; make a folder for each of two classes or more")
    x = _decode(folder, [path for path, _ in everything])
    count = len(train)
    if not test:
        return Dataset(x=x, y=labels, names=names)
    return Dataset(x=x[:count], y=labels[:count], x_test=x[count:], y_test=labels[count:], names=names)


def holds_pictures(folder: Path) -> bool:
    """Whether a folder has the form that `pictures` reads."""
    above = folder / "train" if (folder / "train").is_dir() else folder
    return any(files_below(each, ENDINGS) for each in folders_below(above))


def _files(folder: Path) -> Files:
    found = [(path, each.name) for each in folders_below(folder) for path in files_below(each, ENDINGS)]
    if not found:
        raise invalid(folder, "holds no folders of PNG or JPEG files; make one for each class")
    return found


def _decode(folder: Path, paths: Sequence[Path]) -> Array:
    sizes, modes = Counter[tuple[int, int]](), Counter[bool]()
    for path in paths:
        with _open(path) as image:
            sizes[image.size] += 1
            modes[image.mode in ("1", "L", "I;16", "LA")] += 1
    width, height = _reduced(*sizes.most_common(1)[0][0])
    mode, channels = ("L", 1) if not modes[False] else ("RGB", 3)
    if len(paths) * width * height * channels > LARGEST_BYTES:
        raise invalid(folder, f"unpacks to more than {LARGEST_BYTES >> 20} MiB; give fewer or smaller pictures")
    x = np.empty((len(paths), channels, height, width), np.uint8)
    for index, path in enumerate(paths):
        with _open(path) as image:
            try:
                fitted = image.convert(mode)
            except (OSError, SyntaxError, ValueError) as error:
                raise invalid(path, f"is damaged ({error}); remove it") from error
            if fitted.size != (width, height):
                fitted = fitted.resize((width, height))
            x[index] = np.asarray(fitted, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    return x


def _open(path: Path) -> "Image":
    try:
        from PIL import Image, UnidentifiedImageError  # only who reads pictures needs it
    except ImportError as error:
        raise FailedPrecondition("EXTRA_MISSING", extra="images", package="pillow") from error
    try:
        image = Image.open(path, formats=("PNG", "JPEG"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise invalid(path, "is no PNG or JPEG file; remove it") from error
    if image.width * image.height > _MOST_PIXELS:
        image.close()
        raise invalid(path, f"has {image.width} x {image.height} pixels; make it smaller")
    return image


def _reduced(width: int, height: int) -> tuple[int, int]:
    largest = max(width, height)
    if largest <= _MOST_SIDE:
        return width, height
    return max(width * _MOST_SIDE // largest, 1), max(height * _MOST_SIDE // largest, 1)
