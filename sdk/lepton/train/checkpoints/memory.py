"""The bytes of tensors: what a rank holds of each one, and where in this process's memory it lies."""

import ctypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch

from lepton.errors import InvalidArgument
from lepton.train.checkpoints.manifest import Box

DTYPES: Final[Mapping[torch.dtype, str]] = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.uint16: "U16", torch.int16: "I16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.uint32: "U32", torch.int32: "I32", torch.float32: "F32", torch.uint64: "U64",
    torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64",
}  # fmt: skip
"""torch's types under safetensors' names."""

_WRITABLE: Final = 0x200  # PyBUF_WRITE
_ROWS_BYTES: Final = 8 << 20
_view: Callable[[int, int, int], memoryview] = ctypes.pythonapi.PyMemoryView_FromMemory
ctypes.pythonapi.PyMemoryView_FromMemory.restype = ctypes.py_object
ctypes.pythonapi.PyMemoryView_FromMemory.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one rank holds of a tensor: the box at `offset` of the shape of `local`, which keeps its memory alive."""

    dtype: str
    shape: Box
    offset: Box
    local: torch.Tensor
    is_shard: bool  # else it is a plain tensor, of which this rank has the whole

    @property
    def box(self) -> Box:
        """The shape of what is held."""
        return tuple(self.local.shape)

    def blocks(self) -> Iterator[memoryview]:
        """The bytes, row by row, straight from memory. Uses no torch operation: safe in a forked child."""
        local = self.local
        count, item = local.numel(), local.element_size()
        if not count:
            return
        if local.is_contiguous():
            yield _view(local.data_ptr(), count * item, _WRITABLE)
            return
        strides = tuple(stride * item for stride in local.stride())
        span = item + sum((size - 1) * stride for size, stride in zip(local.shape, strides, strict=True))
        array = np.ndarray(
            tuple(local.shape), f"V{item}", buffer=_view(local.data_ptr(), span, _WRITABLE), strides=strides
        )
        rows = max(_ROWS_BYTES * len(array) // (count * item), 1)
        for start in range(0, len(array), rows):
            yield np.ascontiguousarray(array[start : start + rows]).view(np.uint8).reshape(-1).data


def holding(path: str, tensor: torch.Tensor) -> Holding:
    """What this rank holds of a tensor. InvalidArgument naming what cannot be kept."""
    spec = getattr(tensor, "_spec", None)
    if spec is not None and hasattr(tensor, "_local_tensor"):
        if any(placement.is_partial() for placement in spec.placements):
            raise _refused(path, "is a partial sum; redistribute it first")
        local = _plain(path, tensor._local_tensor)  # noqa: SLF001  # to_local() records for autograd
        place = _place(spec.mesh, spec.placements, tuple(tensor.shape))
        if place is None:
            return Holding(_dtype(path, local), tuple(tensor.shape), (0,) * tensor.dim(), local.new_empty(0), True)
        box, offset = place
        if tuple(local.shape) != box:
            raise _refused(path, f"has a local shard of shape {tuple(local.shape)} where {box} is expected")
        return Holding(_dtype(path, local), tuple(tensor.shape), offset, local, True)
    local = _plain(path, tensor)
    return Holding(_dtype(path, local), tuple(local.shape), (0,) * local.dim(), local, False)


@lru_cache(maxsize=1 << 16)
def _place(mesh: Any, placements: Any, shape: Box) -> tuple[Box, Box] | None:
    """The box of a tensor that this rank holds, and where it begins; None when the rank is not in the mesh."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if mesh.get_coordinate() is None:
        return None
    box, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
    return tuple(map(int, box)), tuple(map(int, offset))


def _plain(path: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise _refused(path, f"is {tensor.layout} on {tensor.device}; keep dense tensors with memory only")
    if tensor.is_conj() or tensor.is_neg():
        return tensor.detach().resolve_conj().resolve_neg()
    return tensor


def _dtype(path: str, tensor: torch.Tensor) -> str:
    name = DTYPES.get(tensor.dtype)
    if name is None:
        raise _refused(path, f"is of {tensor.dtype}, which cannot be kept; convert it")
    return name


def _refused(path: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={f"state.{path}": problem})
