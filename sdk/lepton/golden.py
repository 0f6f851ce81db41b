"""Golden inference: requests with known answers, sent over the Open Inference Protocol, and what came of them."""

import json
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any, Final, Self

import grpc
import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from lepton.errors import InvalidArgument

Array = NDArray[Any]

DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
TOLERANCES: Final = "lepton.golden"
TEXT: Final = "BYTES"
"""The datatype of texts: arrays of `bytes` objects; in a safetensors file `pack_texts` makes numbers of them."""
_NAMES: Final = {**{dtype: name for name, dtype in DATATYPES.items()}, np.dtype(object): TEXT}
_TRITON_TEXT: Final = "STRING"


class Outcome(StrEnum):
    """What a golden check found."""

    MATCHED = "matched"
    MISMATCHED = "mismatched"
    MALFORMED = "malformed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of one check; `detail` is empty when it passed."""

    outcome: Outcome
    rows: int
    largest_error: float
    latency_s: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Every answer was within the tolerance."""
        return self.outcome is Outcome.MATCHED


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Golden:
    """Inputs and the outputs that they must give; all tensors have as many rows, or there is no batch dimension."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    max_batch: int = 0
    """Rows that one request may hold; 0 means that the model has no batch dimension."""
    absolute: float = 1e-3
    relative: float = 1e-3

    @classmethod
    def parse(cls, tensors: bytes, config: str) -> Self:
        """The golden tensors (safetensors) that the inputs and outputs of a Triton configuration name."""
        try:
            model = text_format.Parse(config, model_config_pb2.ModelConfig())
            arrays = load(tensors)
        except (text_format.ParseError, SafetensorError) as error:
            raise InvalidArgument("GOLDEN_INVALID", problem=str(error)) from error
        return cls(
            inputs=_named(arrays, model.input),
            outputs=_named(arrays, model.output),
            max_batch=model.max_batch_size,
            **tolerances(tensors),
        )

    @property
    def rows(self) -> int:
        """How many samples there are; 1 when the model has no batch dimension."""
        return len(next(iter(self.inputs.values()))) if self.max_batch else 1

    def head(self, rows: int) -> Self:
        """The first samples only: enough to prove that a server still answers."""
        return self._cut(0, rows) if self.max_batch else self

    def shuffled(self, rows: int, random: Random) -> Self:
        """So many of the samples in an order of their own: hardly ever a request that a cache has seen."""
        if not self.max_batch:
            return self
        picked = random.sample(range(self.rows), min(rows, self.rows, self.max_batch))
        inputs = {name: array[picked] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, outputs={name: array[picked] for name, array in self.outputs.items()})

    def requests(self) -> Iterator[Self]:
        """The same samples, in pieces that one request may hold."""
        if not self.max_batch:
            yield self
            return
        for start in range(0, self.rows, self.max_batch):
            yield self._cut(start, start + self.max_batch)

    def _cut(self, start: int, end: int) -> Self:
        inputs = {name: array[start:end] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, outputs={name: array[start:end] for name, array in self.outputs.items()})


async def check(
    channel: grpc.aio.Channel,
    model: str,
    golden: Golden,
    *,
    deadline_s: float,
    metadata: Sequence[tuple[str, str]] = (),
) -> Verdict:
    """Sends every golden request within one deadline and compares every answer; never raises for what a server does."""
    infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
    started, largest, rows = time.monotonic(), 0.0, 0
    for piece in golden.requests():
        left = deadline_s - (time.monotonic() - started)
        try:
            answer = await infer(_request(model, piece), timeout=max(left, 0.0), metadata=tuple(metadata))
        except grpc.aio.AioRpcError as error:
            outcome = Outcome.UNREACHABLE if error.code() in _NO_ANSWER else Outcome.REFUSED
            return _verdict(outcome, rows, largest, started, f"{error.code().name}: {error.details()}")
        outcome, error_size, detail = _compare(answer, piece)
        largest = max(largest, error_size)
        if outcome is not Outcome.MATCHED:
            return _verdict(outcome, rows, largest, started, detail)
        rows += piece.rows
    return _verdict(Outcome.MATCHED, rows, largest, started, "")


_NO_ANSWER: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


def _verdict(outcome: Outcome, rows: int, largest: float, started: float, detail: str) -> Verdict:
    latency_s = time.monotonic() - started
    return Verdict(outcome=outcome, rows=rows, largest_error=largest, latency_s=latency_s, detail=detail)


def _request(model: str, golden: Golden) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in golden.inputs.items():
        request.inputs.add(name=name, datatype=_NAMES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(to_raw(array))
    for name in golden.outputs:
        request.outputs.add(name=name)
    return request


def _compare(answer: Any, golden: Golden) -> tuple[Outcome, float, str]:
    given = {
        output.name: (output, raw) for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=False)
    }
    largest = 0.0
    for name, expected in golden.outputs.items():
        if name not in given:
            return Outcome.MALFORMED, largest, f"output {name} is missing"
        output, raw = given[name]
        described = f"output {name} is {output.datatype}{list(output.shape)} in {len(raw)} bytes"
        if _NAMES[expected.dtype] != output.datatype or tuple(output.shape) != expected.shape:
            return Outcome.MALFORMED, largest, f"{described}, not {_NAMES[expected.dtype]}{list(expected.shape)}"
        if expected.dtype == object:
            if raw != to_raw(expected):
                return Outcome.MISMATCHED, largest, f"output {name} holds other texts"
            continue
        if len(raw) != expected.nbytes:
            return Outcome.MALFORMED, largest, described
        actual = np.frombuffer(raw, expected.dtype).reshape(expected.shape)
        wide, right = actual.astype(np.float64), expected.astype(np.float64)
        error = float(np.max(np.abs(wide - right), initial=0.0))
        largest = max(largest, error if np.isfinite(error) else float("inf"))
        if not np.allclose(wide, right, rtol=golden.relative, atol=golden.absolute):
            return Outcome.MISMATCHED, largest, f"output {name} differs by up to {error:.3g}"
    return Outcome.MATCHED, largest, ""


def _named(arrays: Mapping[str, Array], tensors: Sequence[Any]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for tensor in tensors:
        datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        array = arrays.get(tensor.name)
        if datatype == _TRITON_TEXT and array is not None and array.dtype == np.uint8 and array.ndim and len(array):
            found[tensor.name] = _unpacked(array)
            continue
        if array is None or not len(array) or DATATYPES.get(datatype) != array.dtype:
            problem = f"it holds no tensor {tensor.name} of type {datatype}"
            raise InvalidArgument("GOLDEN_INVALID", problem=problem)
        found[tensor.name] = array
    return found


def tolerances(tensors: bytes) -> dict[str, float]:
    """How far answers may be off, if a golden file says so: a quantised model's depend on what they are batched with.

    The header's entry `lepton.golden` holds {"absolute": .., "relative": ..} as JSON; what is left out is the default.
    """
    said = ""
    try:
        (length,) = struct.unpack_from("<Q", tensors)
        said = (json.loads(tensors[8 : 8 + length]).get("__metadata__") or {}).get(TOLERANCES, "{}")
        found = {str(name): float(value) for name, value in json.loads(said).items()}
    except (struct.error, ValueError, TypeError, AttributeError) as error:
        raise InvalidArgument("GOLDEN_INVALID", problem=f"its header cannot be read ({error})") from error
    if set(found) - {"absolute", "relative"} or not all(0 <= value < float("inf") for value in found.values()):
        raise InvalidArgument("GOLDEN_INVALID", problem=f"the entry {TOLERANCES} of its header is {said!r}")
    return found


def pack_texts(given: Array) -> Array:
    """Texts (`str` or `bytes` without NUL at their ends) as uint8 with one dimension more, filled up with NUL."""
    encoded = [each if isinstance(each, bytes) else str(each).encode() for each in given.ravel()]
    width = max([1, *map(len, encoded)])
    packed = np.frombuffer(b"".join(each.ljust(width, b"\0") for each in encoded), np.uint8)
    return packed.reshape(*given.shape, width)


def _unpacked(packed: Array) -> Array:
    rows = np.ascontiguousarray(packed).reshape(-1, packed.shape[-1])
    made = np.empty(len(rows), object)
    made[:] = [row.tobytes().rstrip(b"\0") for row in rows]
    return made.reshape(packed.shape[:-1])


def to_raw(array: Array) -> bytes:
    """A tensor as the protocol sends it; texts are `bytes`, each sent with its length before it."""
    if array.dtype != object:
        return np.ascontiguousarray(array).tobytes()
    return b"".join(struct.pack("<I", len(each)) + each for each in array.ravel())


def from_raw(raw: bytes, datatype: str, shape: Sequence[int]) -> Array:
    """The tensor that was sent; texts become `bytes`. Raises ValueError when it is not of that shape."""
    if datatype != TEXT:
        return np.frombuffer(raw, DATATYPES[datatype]).reshape(shape)
    found, at = list[bytes](), 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    made = np.empty(len(found), object)
    made[:] = found
    return made.reshape(shape)
