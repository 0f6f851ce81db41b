"""Time series: the canonical dataset of the forecaster, and where it is read from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from lepton.data.limits import Array, invalid
from lepton.data.rows import Rows
from lepton.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values (float32, T x C) of C series at T moments in the order of time; `columns` names the series."""

    kind: ClassVar[str] = "series"
    values: Array
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        problem = ""
        if self.values.ndim != 2 or self.values.dtype != np.float32 or self.values.shape[1] != len(self.columns):
            problem = (
                f"values are {self.values.dtype} of shape {self.values.shape}; make them float32, moments x series"
            )
        elif len(self.values) < 4 or not self.columns:
            problem = f"there are {len(self.values)} moments; give more"
        elif not np.isfinite(self.values).all():
            problem = "values hold NaN or infinite numbers; fill the gaps"
        if problem:
            raise InvalidArgument("DATASET_INVALID", problem=problem)

    def __len__(self) -> int:
        return len(self.values)

    def arrays(self) -> Mapping[str, Array]:
        """What the canonical file holds."""
        return {"values": self.values}

    def facts(self) -> Mapping[str, Any]:
        """What it says beside the arrays."""
        return {"columns": list(self.columns)}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """The dataset of a canonical file."""
        return cls(values=arrays["values"], columns=tuple(map(str, facts["columns"])))


def read_series(path: Path, time: str = "") -> Series:
    """A .csv file with a column of times (`time`, else time, date, timestamp or ds) and columns of numbers.

    Rows are put into the order of time; a moment that occurs twice is refused.
    """
    table = Rows.read(path)
    index = table.index(*((time,) if time else ("time", "date", "timestamp", "datetime", "ds")))
    moments = [_moment(table, row, index) for row in range(len(table.rows))]
    order = np.argsort(np.array(moments), kind="stable")
    for earlier, later in pairwise(order.tolist()):
        if moments[earlier] == moments[later]:
            raise invalid(path, f"has the moment {table.rows[later][index]!r} twice; give each once")
    others = [number for number in range(len(table.columns)) if number != index]
    if not others:
        raise invalid(path, "has no column beside the time; add one of numbers")
    values = [[table.number(int(row), number) for number in others] for row in order]
    columns = tuple(table.columns[number] for number in others)
    try:
        with np.errstate(over="ignore"):  # too large becomes infinite, which Series refuses
            return Series(values=np.array(values, np.float32), columns=columns)
    except InvalidArgument as error:
        raise invalid(path, error.metadata["problem"]) from error


def _moment(table: Rows, row: int, index: int) -> float:
    cell = table.rows[row][index].strip()
    try:
        return float(cell)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(cell).timestamp()
    except ValueError as error:
        raise invalid(
            table.path, f"row {row + 1}: {cell[:40]!r} is no time; write numbers or times such as 2026-01-31T12:00:00"
        ) from error
