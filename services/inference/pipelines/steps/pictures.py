"""Steps over pictures: resize."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lepton.models import Tensor
from services.inference.pipelines.steps.step import NUMBERS, Array, must, onnx_model, random_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Pictures (batch, channels, height, width) at another size, FP32; linear, between the centres of pixels."""

    height: int
    width: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """`x`."""
        return ("x",)

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`y`."""
        x = must(given["x"], "x", types=NUMBERS, ranks=(4,))
        return (Tensor(name="y", datatype="FP32", shape=(*x.shape[:2], self.height, self.width)),)

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """Resize."""
        nodes = [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Shape", ["wide"], ["kept"], start=0, end=2),
            helper.make_node("Concat", ["kept", "size"], ["sizes"], axis=0),
            helper.make_node(
                "Resize",
                ["wide", "", "", "sizes"],
                ["y"],
                mode="linear",
                coordinate_transformation_mode="half_pixel",
            ),
        ]
        size = numpy_helper.from_array(np.array([self.height, self.width], np.int64), "size")
        return onnx_model("resize", nodes, [replace(given["x"], name="x")], self.outputs(given), [size])

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Along one dimension, then along the other."""
        wide = arrays["x"].astype(np.float32)
        return {"y": _along(_along(wide, 2, self.height), 3, self.width).astype(np.float32)}

    def samples(self, given: Mapping[str, Tensor], rows: int, random: np.random.Generator) -> Mapping[str, Array]:
        """Noise."""
        x = given["x"]
        shape = tuple(8 if size < 0 and at > 1 else size for at, size in enumerate(x.shape))
        return {"x": random_numbers(replace(x, shape=shape), rows, random)}


def _along(x: Array, axis: int, size: int) -> Array:
    """Linear interpolation at the centres of `size` pixels; beyond the outermost centres the outermost pixel."""
    there = x.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * there / size - 0.5, 0, there - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, there - 1)
    share = (at - low).reshape([-1 if each == axis else 1 for each in range(x.ndim)])
    return np.asarray(x.take(low, axis) * (1 - share) + x.take(high, axis) * share)
