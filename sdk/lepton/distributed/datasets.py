"""What a caller may give as data, brought into a canonical dataset.

    data.load_train_data()                     a dataset of lepton.data, of the kind that the model takes
    [train, test]                              two datasets of images: the second is only measured on
    "mnist/", ["mnist/"]                       a path, or `digits`, as `lepton train --data` takes them
    ["x.npz", "test.npz"]                      two paths: the second is only measured on
    [x, y], [x, y, x_test, y_test]             arrays of images and labels
    [(x, y)], [(x, y), (x_test, y_test)]       the same in pairs

Arrays are NumPy's, or whatever `numpy.asarray` takes, a CPU tensor of torch for example.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton import data
from lepton.data.images import canonical
from lepton.errors import InvalidArgument

DataLike = data.AnyDataset | str | Path | Sequence[Any]


def dataset_of(given: DataLike, kind: str) -> data.AnyDataset:
    """The dataset of a kind that was given. Raises InvalidArgument saying what was given and what can be."""
    parts: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if not parts:
        raise _invalid("data", "is empty; give a dataset, arrays or paths")
    if all(_is_array(part) for part in parts):
        if len(parts) not in (2, 4):
            raise _invalid("data", f"has {len(parts)} arrays; give [x, y] or [x, y, x_test, y_test]")
        return _of_arrays(parts, kind)
    if all(isinstance(part, list | tuple) and len(part) == 2 and all(map(_is_array, part)) for part in parts):
        return _of_arrays([array for pair in parts[:2] for array in pair], kind)
    if len(parts) > 2:
        raise _invalid("data", f"has {len(parts)} parts; give one to train on, and one to measure on if you like")
    found = [_one(part, kind, f"data[{index}]") for index, part in enumerate(parts)]
    if len(found) == 1:
        return found[0]
    train, test = found
    if not isinstance(train, data.Dataset) or not isinstance(test, data.Dataset):
        raise _invalid("data", f"has two parts; {kind} are divided by the recipe itself, so give one")
    return data.Dataset(x=train.x, y=train.y, x_test=test.x, y_test=test.y, names=train.names or test.names)


def _one(part: Any, kind: str, path: str) -> data.AnyDataset:
    if isinstance(part, str | Path):
        return data.read(kind, str(part))
    if not isinstance(part, data.AnyDataset):
        raise _invalid(path, f"is a {type(part).__name__}; give a dataset of lepton.data, arrays or a path")
    if part.kind != kind:
        raise _invalid(path, f"holds {part.kind}; this model takes {kind}")
    return part


def _of_arrays(arrays: Sequence[Any], kind: str) -> data.AnyDataset:
    if kind != data.Dataset.kind:
        raise _invalid("data", f"holds arrays, which stand for images; this model takes {kind}: give a path")
    x, y, *test = (np.asarray(array) for array in arrays)
    if not test:
        return canonical(Path("data"), x, y)
    return canonical(Path("data"), x, y, test[0], test[1])


def _is_array(part: Any) -> bool:
    return hasattr(part, "__array__") and not isinstance(part, data.AnyDataset)


def _invalid(path: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={path: problem})
