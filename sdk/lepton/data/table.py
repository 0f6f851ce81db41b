"""Tables of numbers and categories with a class for each row: the canonical dataset of the risk model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from lepton.data.limits import MOST_CLASSES, Array, as_labels, invalid
from lepton.data.rows import Rows
from lepton.errors import InvalidArgument

_MISSING: Final = ("", "na", "n/a", "nan", "null", "none", "?")
_MOST_CATEGORIES: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows `x` (float32, N x F; NaN where a value is missing) with class numbers `y` (int64, N).

    A column with `categories` holds their numbers; one without holds measured numbers. `names` names the classes.
    """

    kind: ClassVar[str] = "table"
    x: Array
    y: Array
    columns: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        problem = ""
        if self.x.ndim != 2 or self.x.dtype != np.float32 or len(self.x) < 2 or not self.columns:
            problem = f"x is {self.x.dtype} of shape {self.x.shape}; make it float32, two rows or more"
        elif not self.x.shape[1] == len(self.columns) == len(self.categories):
            problem = f"x has {self.x.shape[1]} columns, and {len(self.columns)} have names; name each"
        elif self.y.shape != self.x.shape[:1] or self.y.dtype != np.int64:
            problem = f"y is {self.y.dtype} of shape {self.y.shape}; give one int64 a row"
        elif not 2 <= len(self.names) <= MOST_CLASSES or self.y.min() < 0 or self.y.max() >= len(self.names):
            problem = f"there are {len(self.names)} classes; give at least two, numbered from 0"
        elif np.isinf(self.x).any():
            problem = "x holds infinite numbers; leave those cells empty"
        if problem:
            raise InvalidArgument("DATASET_INVALID", problem=problem)

    def __len__(self) -> int:
        return len(self.x)

    def arrays(self) -> Mapping[str, Array]:
        """What the canonical file holds."""
        return {"x": self.x, "y": self.y}

    def facts(self) -> Mapping[str, Any]:
        """What it says beside the arrays."""
        categories = [list(each) for each in self.categories]
        return {"columns": list(self.columns), "categories": categories, "names": list(self.names)}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """The dataset of a canonical file."""
        return cls(
            x=arrays["x"],
            y=arrays["y"],
            columns=tuple(map(str, facts["columns"])),
            categories=tuple(tuple(map(str, each)) for each in facts["categories"]),
            names=tuple(map(str, facts["names"])),
        )


def read_table(path: Path, target: str = "") -> Table:
    """A .csv or .jsonl file; the classes are in the column `target`, else `target`, `label` or the last one.

    A column whose every cell is a number or missing is one of numbers; any other is one of categories.
    """
    rows = Rows.read(path)
    if target:
        chosen = rows.index(target)
    else:
        known = [name for name in rows.columns if name.lower() in ("target", "label")]
        chosen = rows.index(known[0]) if known else len(rows.columns) - 1
    if any(_is_missing(row[chosen]) for row in rows.rows):
        raise invalid(path, f"misses the target {rows.columns[chosen]!r} in some rows; remove those rows")
    y, names = as_labels([row[chosen].strip() for row in rows.rows])
    if len(names) > max(64, len(y) // 2):
        raise invalid(path, f"has {len(names)} different targets in {len(y)} rows; the target must be a class")
    others = [index for index in range(len(rows.columns)) if index != chosen]
    read = [_column(rows, index) for index in others]
    x = np.stack([values for values, _ in read], 1) if read else np.zeros((len(y), 0), np.float32)
    columns = tuple(rows.columns[index] for index in others)
    try:
        return Table(x=x, y=y, columns=columns, categories=tuple(each for _, each in read), names=names)
    except InvalidArgument as error:
        raise invalid(path, error.metadata["problem"]) from error


def _column(rows: Rows, index: int) -> tuple[Array, tuple[str, ...]]:
    cells = [row[index].strip() for row in rows.rows]
    try:
        with np.errstate(over="ignore"):
            return np.array([np.nan if _is_missing(cell) else float(cell) for cell in cells]).astype(np.float32), ()
    except ValueError:
        pass
    present = [cell for cell in cells if not _is_missing(cell)]
    numbers, names = as_labels(present)
    if len(names) > _MOST_CATEGORIES:
        raise invalid(rows.path, f"column {rows.columns[index]!r} has {len(names)} categories; leave it out")
    values = np.full(len(cells), np.nan, np.float32)
    values[[not _is_missing(cell) for cell in cells]] = numbers
    return values, names


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in _MISSING
