"""Golden samples: given ones, read without unpickling, or made of a seed; what a model's answers are held against."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lepton.errors import InvalidArgument
from lepton.models.formats.limits import invalid
from lepton.models.package import LABELS, Tensor

Arrays = dict[str, npt.NDArray[Any]]

ROWS: Final = 16
"""Samples that are made where none are given."""
SIZE: Final = 16
"""What a dimension that may have any size is given, beside the first one."""
MOST_BYTES: Final = 256 << 20
ABSOLUTE: Final = 1e-3
RELATIVE: Final = 1e-3
_LABEL_NAMES: Final = ("labels", "label", LABELS)

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"), "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"), "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Given:
    """Golden samples that somebody has: inputs, perhaps the outputs that are right, perhaps labels."""

    inputs: Arrays
    outputs: Arrays = field(default_factory=dict)
    labels: npt.NDArray[Any] | None = None


def read_npz(path: Path) -> Arrays:
    """The arrays of an .npz file. Raises InvalidArgument: pickled objects, too large, or no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > MOST_BYTES:
            raise ValueError(f"it unpacks to {unpacked} bytes, {MOST_BYTES} at the most")
        with np.load(path, allow_pickle=False) as loaded:
            return {name: np.ascontiguousarray(loaded[name]) for name in loaded.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise invalid(path.name, "file of golden requests (.npz)", str(error)[:200]) from error


def given(arrays: Mapping[str, npt.NDArray[Any]], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Given:
    """Sorts arrays into inputs, outputs and labels. Raises InvalidArgument naming what is missing or wrong."""
    found = {tensor.name: _as(arrays, tensor) for tensor in inputs}
    names = {tensor.name for tensor in (*inputs, *outputs)}
    labels = next((arrays[name] for name in _LABEL_NAMES if name in arrays and name not in names), None)
    known = {tensor.name: _as(arrays, tensor) for tensor in outputs if tensor.name in arrays}
    if all(tensor.shape[:1] == (-1,) for tensor in inputs):
        counts = {len(array) for array in (*found.values(), *known.values())} | (
            {len(labels)} if labels is not None else set()
        )
        if len(counts) != 1 or 0 in counts:
            raise _wrong(f"the arrays have {sorted(counts)} rows; all must have the same number, and at least one")
    return Given(inputs=found, outputs=known, labels=labels)


def made(inputs: Sequence[Tensor], seed: int, below: Mapping[str, int], sizes: Mapping[str, int]) -> Given:
    """Inputs of a seed: normal numbers, and whole numbers from 0 to below their input's bound (2 if none is known)."""
    chance = np.random.default_rng(seed)
    found: Arrays = {}
    for tensor in inputs:
        if tensor.datatype not in DTYPES:
            raise _wrong(f"no samples of {tensor.datatype} can be made for {tensor.name}; give some with --golden")
        shape = tuple(
            size if size >= 0 else (ROWS if at == 0 else sizes.get(tensor.name, SIZE))
            for at, size in enumerate(tensor.shape)
        )
        if np.prod(shape, dtype=np.float64) * 8 > MOST_BYTES:
            raise _wrong(f"samples of {tensor.name} {list(shape)} would be too large; give some with --golden")
        dtype = DTYPES[tensor.datatype]
        if dtype.kind == "f":
            found[tensor.name] = chance.standard_normal(shape).astype(dtype)
        elif dtype.kind == "b":
            found[tensor.name] = chance.integers(0, 2, shape).astype(dtype)
        else:
            found[tensor.name] = chance.integers(0, below.get(tensor.name, 2), shape).astype(dtype)
    return Given(inputs=found)


def difference(answer: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> str:
    """Why an answer is not the one that is wanted; empty when it is, within 1e-3 (absolute and relative)."""
    if answer.shape != wanted.shape or answer.dtype != wanted.dtype:
        return f"is {answer.dtype}{list(answer.shape)}, not {wanted.dtype}{list(wanted.shape)}"
    if answer.dtype.kind not in "fiub":
        return "" if np.array_equal(answer, wanted) else "differs"
    if not np.allclose(answer.astype(np.float64), wanted.astype(np.float64), rtol=RELATIVE, atol=ABSOLUTE):
        return f"differs by up to {np.max(np.abs(answer.astype(np.float64) - wanted.astype(np.float64))):.3g}"
    return ""


def accuracy(outputs: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[Any] | None) -> float | None:
    """The share of rows whose largest score is their label's; None where the outputs are no scores of classes."""
    scores = [array for array in outputs.values() if array.ndim == 2 and array.shape[1] > 1]
    if labels is None or len(scores) != 1 or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    return float(np.mean(np.argmax(scores[0], axis=1) == labels))


def _as(arrays: Mapping[str, npt.NDArray[Any]], tensor: Tensor) -> npt.NDArray[Any]:
    array = arrays.get(tensor.name)
    if array is None:
        raise _wrong(f"it has no array {tensor.name!r}; it has {', '.join(sorted(arrays)[:10]) or 'none'}")
    dtype = DTYPES.get(tensor.datatype)
    is_shape = array.ndim == len(tensor.shape) and all(
        size in (-1, there) for size, there in zip(tensor.shape, array.shape, strict=True)
    )
    if dtype is None or not is_shape or not np.can_cast(array.dtype, dtype, "same_kind"):
        wanted = f"{tensor.datatype}{list(tensor.shape)}"
        raise _wrong(f"{tensor.name} is {array.dtype}{list(array.shape)}, the model takes or gives {wanted}")
    return array.astype(dtype, copy=False)


def _wrong(problem: str) -> InvalidArgument:
    return InvalidArgument("GOLDEN_INVALID", fields={"golden": problem})
