"""Where datasets come from: for each kind, the files and folders that a user may name."""

from pathlib import Path

import numpy as np

from lepton.data.canonical import AnyDataset, from_safetensors, parse
from lepton.data.corpus import read_corpus
from lepton.data.dataset import Dataset
from lepton.data.idx import idx, idx_folder, labels_beside
from lepton.data.limits import content_of, invalid
from lepton.data.npz import npz
from lepton.data.pictures import holds_pictures, pictures
from lepton.data.ratings import read_ratings
from lepton.data.series import read_series
from lepton.data.table import read_table
from lepton.data.texts import read_texts
from lepton.errors import InvalidArgument, NotFound


def load(source: str, labels: str | None = None) -> Dataset:
    """The images that a user names: `digits`, a file or a folder of images; errors say which file and what to do."""
    if source == "digits":
        return digits()
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".npz":
        return npz(path)
    if path.suffix == ".safetensors":
        return from_safetensors(content_of(path))
    return idx(path, Path(labels) if labels else labels_beside(path))


def read(kind: str, source: str, *, target: str = "", time: str = "") -> AnyDataset:
    """The dataset of a kind that a user names; `target` and `time` are columns of a table and of series."""
    path = Path(source)
    if kind == Dataset.kind:
        return load(source)
    if not path.exists():
        raise NotFound("FILE_NOT_FOUND", file=source)
    if path.suffix == ".safetensors":
        return _of_kind(parse(content_of(path)), kind)
    if kind == "texts":
        return read_texts(path)
    if kind == "corpus":
        return read_corpus(path)
    table = _only_table(path)
    if kind == "series":
        return read_series(table, time)
    if kind == "ratings":
        return read_ratings(table)
    return read_table(table, target)


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 17 grey levels, in 10 classes."""
    from sklearn.datasets import load_digits  # heavy, and only this source needs it

    bunch = load_digits()
    return Dataset(x=bunch.images[:, None].astype(np.uint8), y=bunch.target.astype(np.int64))


def _folder(folder: Path) -> Dataset:
    archives = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".safetensors"))
    if len(archives) == 1:
        return load(str(archives[0]))
    if archives:
        raise invalid(folder, f"holds {len(archives)} archives; name one of them")
    found = idx_folder(folder)
    if found is not None:
        return found
    if holds_pictures(folder):
        return pictures(folder)
    named = sorted(path for path in folder.iterdir() if "images" in path.name)
    if len(named) == 1:
        return idx(named[0], labels_beside(named[0]))
    raise invalid(
        folder, "holds no *-images-idx3-ubyte file, no .npz archive and no folders of PNG or JPEG files; give one"
    )


def _only_table(path: Path) -> Path:
    if not path.is_dir():
        return path
    tables = sorted(each for each in path.iterdir() if each.suffix in (".csv", ".jsonl"))
    if len(tables) != 1:
        raise invalid(path, f"holds {len(tables)} .csv and .jsonl files; leave one, or name it")
    return tables[0]


def _of_kind(dataset: AnyDataset, kind: str) -> AnyDataset:
    if dataset.kind != kind:
        raise InvalidArgument("DATASET_INVALID", problem=f"it is of the kind {dataset.kind}, not {kind}; give another")
    return dataset
