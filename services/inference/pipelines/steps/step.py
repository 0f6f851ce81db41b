"""What a declared step is: the tensors it gives for those it gets, its ONNX graph, and what it does, in numpy."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lepton.models import Tensor

Array = NDArray[Any]
OPSET: Final = 20
_ML: Final = ("ai.onnx.ml", 3)
_IR: Final = 9
ONNX_TYPES: Final[Mapping[str, int]] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
NUMBERS: Final = frozenset(ONNX_TYPES) - {"BOOL", "BYTES"}
SCORES: Final = frozenset({"FP16", "FP32", "FP64"})


class Mismatch(Exception):
    """A step cannot take a tensor, or is declared wrong: `field` is one of its own inputs or settings."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field, self.problem = field, problem


class Step(Protocol):
    """One kind of step; `given` and arrays are by the step's own names."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors it takes, by its own names."""
        ...

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The tensors it gives. Raises Mismatch."""
        ...

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """It as an ONNX file."""
        ...

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """What its graph must give, computed without it."""
        ...

    def samples(self, given: Mapping[str, Tensor], rows: int, random: np.random.Generator) -> Mapping[str, Array]:
        """Inputs that are typical of it, for golden requests where nobody knows real ones."""
        ...


def onnx_model(
    name: str,
    nodes: Sequence[NodeProto],
    given: Sequence[Tensor],
    outputs: Sequence[Tensor],
    constants: Sequence[TensorProto] = (),
) -> bytes:
    """An ONNX file of some nodes; equal arguments give equal bytes."""
    graph = helper.make_graph(
        list(nodes), name, [_described(each) for each in given], [_described(each) for each in outputs], list(constants)
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(*_ML)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR).SerializeToString())


def words(name: str, given: Sequence[str]) -> TensorProto:
    """A constant of strings."""
    return numpy_helper.from_array(texts(given), name)


def texts(given: Sequence[str]) -> Array:
    """Strings as an array that holds them as they are."""
    made = np.empty(len(given), object)
    made[:] = given
    return made


def must(tensor: Tensor, field: str, *, types: frozenset[str], ranks: Sequence[int]) -> Tensor:
    """The tensor, if it has one of the types and ranks (the batch included). Raises Mismatch."""
    if tensor.datatype not in types:
        raise Mismatch(field, f"is {described(tensor)}; it must be {' or '.join(sorted(types))}")
    if len(tensor.shape) not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise Mismatch(field, f"is {described(tensor)}; it must have {wanted} dimensions, the batch included")
    return tensor


def described(tensor: Tensor) -> str:
    """A tensor's type and shape in words: `x FP32[-1, 10]`."""
    return f"{tensor.name} {tensor.datatype}{list(tensor.shape)}"


def random_numbers(tensor: Tensor, rows: int, random: np.random.Generator) -> Array:
    """Plain values of a tensor's type; a free inner dimension becomes 4."""
    shape = (rows, *(4 if size < 0 else size for size in tensor.shape[1:]))
    if tensor.datatype in SCORES:
        return random.normal(size=shape).astype(helper.tensor_dtype_to_np_dtype(ONNX_TYPES[tensor.datatype]))
    if tensor.datatype == "BOOL":
        return random.integers(0, 2, shape).astype(np.bool_)
    if tensor.datatype == "BYTES":
        return texts([f"text {at}" for at in range(int(np.prod(shape)))]).reshape(shape)
    return random.integers(0, 100, shape).astype(helper.tensor_dtype_to_np_dtype(ONNX_TYPES[tensor.datatype]))


def _described(tensor: Tensor) -> Any:
    dims = ["batch", *(f"{tensor.name}_{at}" if size < 0 else size for at, size in enumerate(tensor.shape[1:], 1))]
    return helper.make_tensor_value_info(tensor.name, ONNX_TYPES[tensor.datatype], dims)
