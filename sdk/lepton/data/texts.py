"""Labelled texts: the canonical dataset of the text classifier, and where it is read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from lepton.data.limits import MOST_CLASSES, Array, as_labels, files_below, folders_below, invalid, text_of
from lepton.data.rows import Rows
from lepton.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Texts with a class number for each, `names` naming the classes; the last `given_test` are the test set."""

    kind: ClassVar[str] = "texts"
    texts: tuple[str, ...]
    y: Array
    names: tuple[str, ...]
    given_test: int = 0

    def __post_init__(self) -> None:
        problem = ""
        if len(self.texts) != len(self.y) or len(self.texts) - self.given_test < 2 or self.given_test < 0:
            problem = f"there are {len(self.texts)} texts and {len(self.y)} labels; give two or more, a label for each"
        elif not 2 <= len(self.names) <= MOST_CLASSES:
            problem = f"there are {len(self.names)} classes; give at least two, and {MOST_CLASSES} at most"
        elif self.y.dtype != np.int64 or self.y.min() < 0 or self.y.max() >= len(self.names):
            problem = f"labels must be int64 from 0 to {len(self.names) - 1}"
        if problem:
            raise InvalidArgument("DATASET_INVALID", problem=problem)

    def __len__(self) -> int:
        return len(self.texts)

    def arrays(self) -> Mapping[str, Array]:
        """All texts as UTF-8 one after the other, and where each ends."""
        encoded = [text.encode() for text in self.texts]
        ends = np.cumsum([len(each) for each in encoded], dtype=np.int64)
        return {"bytes": np.frombuffer(b"".join(encoded), np.uint8), "ends": ends, "y": self.y}

    def facts(self) -> Mapping[str, Any]:
        """What it says beside the arrays."""
        return {"names": list(self.names), "given_test": self.given_test}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """The dataset of a canonical file."""
        whole, ends = arrays["bytes"].tobytes(), arrays["ends"].tolist()
        starts = [0, *ends[:-1]]
        texts = tuple(whole[start:end].decode() for start, end in zip(starts, ends, strict=True))
        names = tuple(map(str, facts["names"]))
        return cls(texts=texts, y=arrays["y"], names=names, given_test=int(facts.get("given_test", 0)))


def read_texts(path: Path) -> Texts:
    """A .csv or .jsonl file with the columns text and label, or a folder of .txt files for each class.

    Above the classes' folders there may be `train` and `test`; train.csv and test.csv beside each other do as well.
    """
    if path.is_file():
        return _texts(path, _rows(path), ())
    if not path.is_dir():
        return _texts(path, _rows(path), ())  # says that there is no such file
    if (path / "train").is_dir():
        test = _folders(path / "test") if (path / "test").is_dir() else ()
        return _texts(path, _folders(path / "train"), test)
    files = files_below(path, (".csv", ".jsonl", ".ndjson"))
    train = [each for each in files if each.stem == "train"] or (files if len(files) == 1 else [])
    if train:
        held_out = [each for each in files if each.stem == "test"]
        return _texts(path, _rows(train[0]), _rows(held_out[0]) if held_out else ())
    if files:
        raise invalid(path, f"holds {len(files)} tables; name one of them, or call them train and test")
    return _texts(path, _folders(path), ())


Labelled = Sequence[tuple[str, str]]


def _texts(path: Path, train: Labelled, test: Labelled) -> Texts:
    labels, names = as_labels([label for _, label in (*train, *test)])
    texts = tuple(text for text, _ in (*train, *test))
    if len(names) < 2:
        raise invalid(path, f"holds the one class {names[0] if names else ''!r}; give texts of at least two")
    return Texts(texts=texts, y=labels, names=names, given_test=len(test))


def _rows(path: Path) -> Labelled:
    table = Rows.read(path)
    return list(zip(table.column("text", "sentence", "content"), table.column("label", "class", "y"), strict=True))


def _folders(folder: Path) -> Labelled:
    found = [
        (text_of(file), each.name) for each in folders_below(folder) for file in files_below(each, (".txt", ".md"))
    ]
    if not found:
        raise invalid(folder, "holds no folders of .txt files; make a folder for each class, or give a .csv file")
    return found
