"""Steps over numbers: normalise, one-hot, concatenate."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lepton.models import Tensor
from services.inference.pipelines.steps.step import (
    NUMBERS,
    ONNX_TYPES,
    Array,
    Mismatch,
    described,
    must,
    onnx_model,
    random_numbers,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise:
    """`y = (x - mean) / deviation`, FP32; one number for all, or one for each index of the second dimension."""

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """`x`."""
        return ("x",)

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`y`, as `x` but FP32."""
        x = must(given["x"], "x", types=NUMBERS, ranks=range(2, 9))
        for field, numbers in (("mean", self.mean), ("deviation", self.deviation)):
            if len(numbers) not in (0, 1, x.shape[1]):
                raise Mismatch(field, f"holds {len(numbers)} numbers; {described(x)} needs 1 or {x.shape[1]}")
            if not np.isfinite(numbers).all():
                raise Mismatch(field, "must be finite numbers")
        if 0 in np.array(self.deviation, np.float32):
            raise Mismatch("deviation", "holds a 0; leave constant columns out, or give 1")
        return (Tensor(name="y", datatype="FP32", shape=x.shape),)

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """Cast, Sub, Div."""
        mean, deviation = self._constants(len(given["x"].shape))
        nodes = [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["wide", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "deviation"], ["y"]),
        ]
        constants = [numpy_helper.from_array(mean, "mean"), numpy_helper.from_array(deviation, "deviation")]
        return onnx_model("normalise", nodes, [_named(given["x"], "x")], self.outputs(given), constants)

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """The formula."""
        mean, deviation = self._constants(arrays["x"].ndim)
        return {"y": (arrays["x"].astype(np.float32) - mean) / deviation}

    def samples(self, given: Mapping[str, Tensor], rows: int, random: np.random.Generator) -> Mapping[str, Array]:
        """Around the mean, as far as the deviation."""
        x = given["x"]
        plain = random_numbers(Tensor(name="x", datatype="FP32", shape=x.shape), rows, random)
        mean, deviation = self._constants(len(x.shape))
        kind = helper.tensor_dtype_to_np_dtype(ONNX_TYPES[x.datatype])
        wide = plain * deviation + mean
        if np.issubdtype(kind, np.integer):
            wide = np.clip(np.rint(np.abs(wide)), 0, min(np.iinfo(kind).max, 1 << 20))
        return {"x": wide.astype(kind)}

    def _constants(self, rank: int) -> tuple[Array, Array]:
        form = (1, -1, *[1] * (rank - 2))
        return (
            np.array(self.mean or (0.0,), np.float32).reshape(form),
            np.array(self.deviation or (1.0,), np.float32).reshape(form),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OneHot:
    """Numbers of categories (batch x n) as zeros and ones (batch x n * depth), FP32."""

    depth: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """`x`."""
        return ("x",)

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`y`."""
        x = must(given["x"], "x", types=frozenset({"INT64"}), ranks=(2,))
        width = -1 if x.shape[1] < 0 else x.shape[1] * self.depth
        return (Tensor(name="y", datatype="FP32", shape=(-1, width)),)

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """Each number compared with every index: OneHot itself takes -1 for the last one."""
        nodes = [
            helper.make_node("Unsqueeze", ["x", "last"], ["apart"]),
            helper.make_node("Equal", ["apart", "indices"], ["is_it"]),
            helper.make_node("Cast", ["is_it"], ["ones"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["ones"], ["y"], axis=1),
        ]
        constants = [
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.arange(self.depth, dtype=np.int64), "indices"),
        ]
        return onnx_model("one_hot", nodes, [_named(given["x"], "x")], self.outputs(given), constants)

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Row by row."""
        x = arrays["x"]
        y = np.zeros((*x.shape, self.depth), np.float32)
        for place, index in np.ndenumerate(x):
            if 0 <= index < self.depth:
                y[(*place, index)] = 1.0
        return {"y": y.reshape(len(x), -1)}

    def samples(self, given: Mapping[str, Tensor], rows: int, random: np.random.Generator) -> Mapping[str, Array]:
        """Categories, and one that is none."""
        width = 4 if given["x"].shape[1] < 0 else given["x"].shape[1]
        return {"x": random.integers(-1, self.depth, (rows, width)).astype(np.int64)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenate:
    """Tensors of one type side by side, along the second dimension."""

    count: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """`x0`, `x1`, ..."""
        return tuple(f"x{at}" for at in range(self.count))

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`y`."""
        first = must(given["x0"], "x0", types=NUMBERS | {"BOOL", "BYTES"}, ranks=range(2, 9))
        for name in self.inputs[1:]:
            other = given[name]
            if other.datatype != first.datatype or other.shape[2:] != first.shape[2:]:
                raise Mismatch(name, f"is {described(other)}, which does not go beside {described(first)}")
        sizes = [given[name].shape[1] for name in self.inputs]
        width = -1 if min(sizes) < 0 else sum(sizes)
        return (Tensor(name="y", datatype=first.datatype, shape=(-1, width, *first.shape[2:])),)

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """Concat."""
        nodes = [helper.make_node("Concat", list(self.inputs), ["y"], axis=1)]
        return onnx_model("concatenate", nodes, [_named(given[n], n) for n in self.inputs], self.outputs(given))

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """numpy's own."""
        return {"y": np.concatenate([arrays[name] for name in self.inputs], 1)}

    def samples(self, given: Mapping[str, Tensor], rows: int, random: np.random.Generator) -> Mapping[str, Array]:
        """Any numbers."""
        return {name: random_numbers(given[name], rows, random) for name in self.inputs}


def _named(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name=name, datatype=tensor.datatype, shape=tensor.shape)
