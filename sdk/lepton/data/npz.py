"""NumPy archives of images and labels, read without ever unpickling anything."""

import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np

from lepton.data.dataset import Dataset
from lepton.data.images import canonical
from lepton.data.limits import LARGEST_BYTES, invalid
from lepton.errors import NotFound

_NAMES: Final = (("x", "y"), ("images", "labels"), ("X", "Y"), ("data", "target"), ("x_train", "y_train"))
_TEST_NAMES: Final = ("x_test", "y_test")


def npz(path: Path) -> Dataset:
    """The arrays x and y (or images/labels, data/target, x_train/y_train); x_test and y_test are the test set."""
    if not path.is_file():
        raise NotFound("FILE_NOT_FOUND", file=str(path))
    try:
        with zipfile.ZipFile(path) as packed:
            if sum(member.file_size for member in packed.infolist()) > LARGEST_BYTES:
                raise invalid(path, f"unpacks to more than {LARGEST_BYTES >> 20} MiB; give a part of it")
        with np.load(path, allow_pickle=False) as archive:
            wanted = {name for pair in (*_NAMES, _TEST_NAMES) for name in pair}
            held = sorted(archive.files)
            arrays = {name: archive[name] for name in held if name in wanted}
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise invalid(
            path, f"is not a readable NPZ archive of plain arrays ({error}); save it with numpy.savez"
        ) from error
    for x_name, y_name in _NAMES:
        if x_name in arrays and y_name in arrays:
            x_test, y_test = (arrays.get(name) for name in _TEST_NAMES)
            return canonical(path, arrays[x_name], arrays[y_name], x_test, y_test)
    raise invalid(path, f"holds the arrays {held}; save the images as 'x' and the labels as 'y'")
