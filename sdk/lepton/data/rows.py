"""CSV and JSON-lines files as columns of text, read within limits and checked row by row."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lepton.data.limits import MOST_ROWS, invalid, text_of

_MOST_COLUMNS: Final = 4096
_LONGEST_CELL: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """A file's rows: each as long as `columns`."""

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    @classmethod
    def read(cls, path: Path) -> "Rows":
        """The rows of a .csv file with a header, or of a .jsonl file of objects."""
        return _json_lines(path) if path.suffix in (".jsonl", ".ndjson") else _csv(path)

    def column(self, *names: str) -> list[str]:
        """The cells of the column that has one of the names; InvalidArgument naming the columns that there are."""
        index = self.index(*names)
        return [row[index] for row in self.rows]

    def index(self, *names: str) -> int:
        """The place of the column that has one of the names, upper or lower case."""
        lower = [column.lower() for column in self.columns]
        for name in names:
            if name.lower() in lower:
                return lower.index(name.lower())
        wanted = " or ".join(repr(name) for name in names)
        raise invalid(self.path, f"has no column {wanted} but {', '.join(self.columns[:20])}; name the column so")

    def number(self, row: int, index: int) -> float:
        """A cell as a number."""
        try:
            return float(self.rows[row][index])
        except ValueError as error:
            where = f"row {row + 1}, column {self.columns[index]!r}"
            raise invalid(self.path, f"{where}: {self.rows[row][index][:40]!r} is no number; mend it") from error


def _csv(path: Path) -> Rows:
    reader = csv.reader(io.StringIO(text_of(path), newline=""))
    csv.field_size_limit(_LONGEST_CELL)
    try:
        header = next(reader, [])
        columns = tuple(cell.strip() for cell in header)
        _check_columns(path, columns)
        rows: list[list[str]] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(columns):
                raise invalid(path, f"line {reader.line_num} has {len(row)} cells, the header {len(columns)}; mend it")
            rows.append(row)
            if len(rows) > MOST_ROWS:
                raise invalid(path, f"has more than {MOST_ROWS} rows; give a part of it")
    except csv.Error as error:
        raise invalid(path, f"is no CSV file ({error} in line {reader.line_num}); mend it") from error
    if not rows:
        raise invalid(path, "has no rows below its header; give a CSV file with a header and rows")
    return Rows(path, columns, rows)


def _json_lines(path: Path) -> Rows:
    columns: tuple[str, ...] = ()
    rows: list[list[str]] = []
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise invalid(path, f"line {number} is not JSON ({error}); mend it") from error
        if not isinstance(document, dict):
            raise invalid(path, f"line {number} is no JSON object; write one such as {{...}} a line")
        columns = columns or tuple(document)
        _check_columns(path, columns)
        if missing := [name for name in columns if name not in document]:
            raise invalid(path, f"line {number} has no {missing[0]!r}; give every line the same names")
        rows.append(["" if document[name] is None else str(document[name]) for name in columns])
    if not rows:
        raise invalid(path, "is empty; write one JSON object a line")
    return Rows(path, columns, rows)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not columns or len(columns) > _MOST_COLUMNS:
        raise invalid(path, f"has {len(columns)} columns; give 1 to {_MOST_COLUMNS} under a header")
    if len(set(columns)) != len(columns) or "" in columns:
        raise invalid(path, "has columns without a name or of the same name; name each one")
