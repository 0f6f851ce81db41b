"""The header of a safetensors file, checked: sizes, types, offsets without holes or overlaps, nothing after the data.

Format: 8 bytes little-endian N, N bytes of JSON (`{name: {dtype, shape, data_offsets}}`), then the tensors' bytes
(github.com/huggingface/safetensors, README "Format").
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lepton.models.formats.limits import LIMITS, Limits, invalid

_BITS: Final[Mapping[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4,
}  # fmt: skip
OIP_DATATYPES: Final[Mapping[str, str]] = {
    "BOOL": "BOOL", "U8": "UINT8", "I8": "INT8", "I16": "INT16", "U16": "UINT16", "F16": "FP16", "BF16": "BF16",
    "I32": "INT32", "U32": "UINT32", "F32": "FP32", "I64": "INT64", "U64": "UINT64", "F64": "FP64",
}  # fmt: skip
"""safetensors' types in the Open Inference Protocol's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def header_bytes(head: bytes, file: str, limits: Limits = LIMITS) -> int:
    """How many bytes from the beginning are to be read for `read_header`."""
    if len(head) < 8:
        raise invalid(file, "safetensors file", "it is shorter than a header")
    (size,) = struct.unpack("<Q", head[:8])
    if size > limits.header_bytes:
        raise invalid(file, "safetensors file", f"its header is {size} bytes, {limits.header_bytes} at the most")
    return 8 + int(size)


def read_header(head: bytes, file_bytes: int, file: str, limits: Limits = LIMITS) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file of `file_bytes` that begins with `head`.

    Raises InvalidArgument (MODEL_FILE_INVALID).
    """
    end = header_bytes(head, file, limits)
    if len(head) < end:
        raise invalid(file, "safetensors file", f"its header of {end - 8} bytes is cut off")
    try:
        document = json.loads(head[8:end], object_pairs_hook=_unique)
        if not isinstance(document, dict):
            raise ValueError("its header is no object")
        document.pop("__metadata__", None)
        if len(document) > limits.tensors:
            raise ValueError(f"it has {len(document)} tensors, {limits.tensors} at the most are allowed")
        tensors = {name: _tensor(name, item, limits) for name, item in document.items()}
        _check_layout([item["data_offsets"] for item in document.values()], file_bytes - end)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise invalid(file, "safetensors file", _words(error)) from error
    return tensors


def _tensor(name: str, item: Mapping[str, Any], limits: Limits) -> TensorHeader:
    dtype, shape, (begin, end) = item["dtype"], item["shape"], item["data_offsets"]
    if dtype not in _BITS:
        raise ValueError(f"{name[:80]!r} has the unknown type {str(dtype)[:20]!r}")
    if len(name) > limits.name_bytes or len(shape) > limits.rank:
        raise ValueError(f"{name[:80]!r} has too long a name or too many dimensions")
    if not all(type(size) is int and 0 <= size <= limits.dimension for size in (*shape, begin, end)):
        raise ValueError(f"{name[:80]!r} has a size that is no number of elements")
    if math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise ValueError(f"{name[:80]!r} is {end - begin} bytes, which its shape and type are not")
    return TensorHeader(dtype=dtype, shape=tuple(shape))


def _check_layout(offsets: list[list[int]], data_bytes: int) -> None:
    at = 0
    for begin, end in sorted(map(tuple, offsets)):
        if begin != at:
            raise ValueError(f"its tensors overlap or leave a hole at byte {at}")
        at = end
    if at != data_bytes:
        raise ValueError(f"its tensors are {at} bytes and {data_bytes} bytes follow the header")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def _words(error: Exception) -> str:
    return f"its header lacks {error}" if isinstance(error, KeyError) else str(error)[:300]
