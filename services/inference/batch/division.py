"""Divides a dataset into shards, each of them a file that says what its rows hold."""

import csv
import io
import json
import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from lepton.errors import InvalidArgument
from lepton.golden import DATATYPES
from lepton.inference.v1 import batch_prediction_pb2 as pb
from lepton.models import Signature, Tensor

ARRAYS: Final = "ARRAYS"
JSONL: Final = "JSONL"
CSV: Final = "CSV"
_NOT_FEATURES: Final = frozenset({"target", "label", "y"})
_MISSING: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_LARGEST_BYTES: Final = 4 << 30
Format = pb.BatchInput.Format
Part = tuple[int, int, bytes]
"""Where a shard starts, how many rows it has, and its file."""


def form_of(data: bytes, wanted: "pb.BatchInput.Format.ValueType") -> "pb.BatchInput.Format.ValueType":
    """The form that is asked for, else what the first bytes look like."""
    if wanted != Format.FORMAT_UNSPECIFIED:
        return wanted
    head = data[:64].lstrip()
    if data[:2] == b"PK":
        return Format.NPZ
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return Format.SAFETENSORS
    return Format.JSONL if head[:1] in (b"{", b"[") else Format.CSV


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """What a model that was trained on a table knows of it: its columns in order, the words of their categories."""

    columns: tuple[str, ...] = ()
    categories: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Those of a package's facts; none when they are about something else."""
        try:
            facts = json.loads(data)
            categories = tuple(tuple(map(str, each)) for each in facts["categories"])
            columns = tuple(map(str, facts["columns"]))
        except (ValueError, KeyError, TypeError):
            return cls()
        return cls(columns=columns, categories=categories) if len(columns) == len(categories) else cls()


def rows_of(
    data: bytes,
    form: "pb.BatchInput.Format.ValueType",
    columns: Sequence[str],
    signature: Signature,
    facts: TableFacts | None = None,
) -> "Rows":
    """The rows of a dataset for a model. Raises InvalidArgument (BATCH_INPUT_INVALID)."""
    if form in (Format.NPZ, Format.SAFETENSORS):
        return Arrays(_inputs(_npz(data) if form == Format.NPZ else _safetensors(data), signature))
    if form == Format.JSONL:
        return Lines(data)
    return Cells(data, columns, signature, facts or TableFacts())


class Rows(ABC):
    """The rows of a dataset, cut into files."""

    kind: str
    count: int

    @abstractmethod
    def part(self, start: int, rows: int) -> bytes:
        """The file of some rows."""

    def parts(self, size: int) -> Iterator[Part]:
        """All rows, in shards of `size`; of the last what is left."""
        for start in range(0, self.count, size):
            rows = min(size, self.count - start)
            yield start, rows, self.part(start, rows)


class Arrays(Rows):
    """Arrays by the names of the model's inputs: a shard is a safetensors file."""

    kind = ARRAYS

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self.count = len(next(iter(arrays.values())))

    def part(self, start: int, rows: int) -> bytes:
        """The rows of each array."""
        cut = {name: np.ascontiguousarray(array[start : start + rows]) for name, array in self._arrays.items()}
        return bytes(save_tensors(cut))


class Lines(Rows):
    """JSON lines: a shard is some of them, as they are; what they hold is looked at when they are predicted."""

    kind = JSONL

    def __init__(self, data: bytes) -> None:
        self._lines = [line for line in data.splitlines() if line.strip()]
        self.count = len(self._lines)

    def part(self, start: int, rows: int) -> bytes:
        """The lines."""
        return b"\n".join(self._lines[start : start + rows]) + b"\n"


class Cells(Rows):
    """CSV: a shard is JSON lines, a list of the model's columns each; a row of another length stays whole."""

    kind = CSV

    def __init__(self, data: bytes, columns: Sequence[str], signature: Signature, facts: TableFacts) -> None:
        if len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 2:
            raise _invalid("the model does not take one row of numbers; give JSON lines, NPZ or safetensors")
        try:
            reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
            header = [cell.strip() for cell in next(reader, [])]
            self._rows = [row for row in reader if row]
        except UnicodeDecodeError as error:
            raise _invalid(f"it is not UTF-8 ({error.reason} at byte {error.start})") from error
        except csv.Error as error:
            raise _invalid(f"it is no CSV file ({error})") from error
        chosen = list(columns or facts.columns) or [name for name in header if name.lower() not in _NOT_FEATURES]
        if missing := [name for name in chosen if name not in header]:
            raise _invalid(f"it has no column {missing[0]!r} but {', '.join(header[:20])}")
        width = signature.inputs[0].shape[1]
        if width >= 0 and len(chosen) != width:
            problem = f"the model takes {width} columns, and {len(chosen)} are chosen: {', '.join(chosen[:20])}"
            raise _invalid(f"{problem}; name the columns in the model's order")
        known = dict(zip(facts.columns, facts.categories, strict=True))
        numbers = [{word: float(at) for at, word in enumerate(known.get(name, ()))} for name in chosen]
        self._width, self._chosen = len(header), list(zip(map(header.index, chosen), numbers, strict=True))
        self.count = len(self._rows)

    def part(self, start: int, rows: int) -> bytes:
        """The chosen cells; `null` for a row that has not as many cells as the header."""
        lines = []
        for row in self._rows[start : start + rows]:
            cells = [_cell(row[at], words) for at, words in self._chosen] if len(row) == self._width else None
            lines.append(json.dumps(cells).encode())
        return b"\n".join(lines) + b"\n"


def _cell(text: str, words: Mapping[str, float]) -> str | float | None:
    """A cell as JSON has it: `null` for what is missing, the number of a category, NaN for one that is not known."""
    if text.strip().lower() in _MISSING:
        return None
    return words.get(text.strip(), math.nan) if words else text


def shard_size(rows: int, workers: int, wanted: int) -> int:
    """Rows of a shard: as asked for, else four shards for each worker; never more than 10,000 shards."""
    least = -(-rows // 10_000)
    return max(least, wanted or min(max(-(-rows // (4 * workers)), 64), 65_536))


def _npz(data: bytes) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            if sum(member.file_size for member in packed.infolist()) > _LARGEST_BYTES:
                raise _invalid(f"it unpacks to more than {_LARGEST_BYTES >> 20} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _invalid(f"it is no NPZ archive of plain arrays ({error})") from error


def _safetensors(data: bytes) -> dict[str, Any]:
    try:
        return dict(load_tensors(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise _invalid(f"it is no safetensors file ({error})") from error


def _inputs(arrays: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """The arrays that the model takes, in its types."""
    names = [tensor.name for tensor in signature.inputs]
    if len(names) == 1 and names[0] not in arrays:
        others = [name for name in arrays if name not in _NOT_FEATURES]
        source = "x" if "x" in arrays else others[0] if len(others) == 1 else ""
        if source:
            arrays = {names[0]: arrays[source]}
    if missing := [name for name in names if name not in arrays]:
        raise _invalid(f"it has no array {missing[0]!r} but {', '.join(sorted(arrays)) or 'none'}")
    found = {tensor.name: _fitted(arrays[tensor.name], tensor) for tensor in signature.inputs}
    if len({len(array) for array in found.values()}) != 1:
        raise _invalid("its arrays have different numbers of rows")
    return found


def _fitted(array: Any, tensor: Tensor) -> Any:
    wanted = DATATYPES[tensor.datatype]
    is_right = array.ndim == len(tensor.shape) and all(
        size < 0 or size == there for size, there in zip(tensor.shape[1:], array.shape[1:], strict=True)
    )
    is_exact = np.can_cast(array.dtype, wanted, "same_kind") or (
        array.dtype.kind in "biu" and np.dtype(wanted).kind == "f"
    )
    if not is_right or not is_exact:
        problem = f"the array of {tensor.name} is {array.dtype} of shape {list(array.shape)}"
        raise _invalid(f"{problem}; the model takes {tensor.datatype}{list(tensor.shape)}")
    return array.astype(wanted, copy=False)


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("BATCH_INPUT_INVALID", problem=problem)
