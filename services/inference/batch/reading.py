"""Reads the rows of one shard: what the model takes, or why a row is bad."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from lepton.golden import DATATYPES
from lepton.models import Signature, Tensor
from services.inference.batch.bad_row import BadRow, Reason
from services.inference.batch.division import ARRAYS, CSV

Array = NDArray[Any]
Row = Mapping[str, Array]


def read(
    data: bytes, kind: str, start: int, signature: Signature, *, allow_missing: bool = False
) -> Iterator[Row | BadRow]:
    """Each row of a shard, by the names of the model's inputs and without the batch dimension, or why it is bad."""
    if kind == ARRAYS:
        arrays = load(data)
        names = [tensor.name for tensor in signature.inputs]
        for at in range(len(arrays[names[0]])):
            yield _finite(start + at, {name: arrays[name][at] for name in names}, allow_missing)
        return
    for at, line in enumerate(data.splitlines()):
        yield _of_line(start + at, line, kind, signature, allow_missing)


def _of_line(row: int, line: bytes, kind: str, signature: Signature, allow_missing: bool) -> Row | BadRow:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow.of(row, Reason.UNREADABLE, f"it is no JSON: {error}")
    if kind == CSV:
        if document is None:
            return BadRow.of(row, Reason.UNREADABLE, "it has not as many cells as the header")
        document = [_number(cell) if isinstance(cell, str) else cell for cell in document]
    if not isinstance(document, dict):
        if len(signature.inputs) != 1 or not isinstance(document, list | int | float):
            return BadRow.of(row, Reason.UNREADABLE, "it is no JSON object with the model's inputs")
        document = {signature.inputs[0].name: document}
    found: dict[str, Array] = {}
    for tensor in signature.inputs:
        if document.get(tensor.name) is None:
            return BadRow.of(row, Reason.MISSING_INPUT, f"it has no {tensor.name!r}")
        value = _value(row, _filled(document[tensor.name]) if allow_missing else document[tensor.name], tensor)
        if isinstance(value, BadRow):
            return value
        found[tensor.name] = value
    return _finite(row, found, allow_missing)


def _value(row: int, given: Any, tensor: Tensor) -> Array | BadRow:
    wanted = DATATYPES[tensor.datatype]
    try:
        plain = np.asarray(given)
    except (ValueError, OverflowError):
        return BadRow.of(row, Reason.WRONG_SHAPE, f"{tensor.name} is a list of lists of different lengths")
    if plain.dtype.kind not in "biuf":
        return BadRow.of(row, Reason.WRONG_TYPE, f"{tensor.name} is {str(given)[:60]!r}, not {tensor.datatype}")
    shape = tensor.shape[1:]
    if plain.ndim != len(shape) or any(size not in (-1, here) for size, here in zip(shape, plain.shape, strict=True)):
        problem = f"{tensor.name} has the shape {list(plain.shape)}; the model takes {list(shape)}"
        return BadRow.of(row, Reason.WRONG_SHAPE, problem)
    with np.errstate(over="ignore", invalid="ignore"):
        value = plain.astype(wanted)
    if wanted.kind in "biu" and not np.array_equal(value, plain):
        return BadRow.of(row, Reason.WRONG_TYPE, f"{tensor.name} does not fit into {tensor.datatype}")
    return value


def _finite(row: int, found: Row, allow_missing: bool) -> Row | BadRow:
    for name, array in found.items():
        if array.dtype.kind == "f" and (np.isinf(array).any() or (np.isnan(array).any() and not allow_missing)):
            return BadRow.of(row, Reason.NOT_FINITE, f"{name} holds NaN or infinity")
    return found


def _filled(given: Any) -> Any:
    """NaN for every `null`."""
    if isinstance(given, list):
        return [_filled(each) for each in given]
    return math.nan if given is None else given


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell
