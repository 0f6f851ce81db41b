"""How scores become probabilities: as a value, in numpy, and as ONNX nodes.

Guo, Pleiss, Sun and Weinberger: On Calibration of Modern Neural Networks, 2017 (temperature scaling).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from lepton.inference.v1 import pipeline_pb2 as pb

Array = NDArray[Any]


class Method(StrEnum):
    """The function."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"


_METHODS: Final = {
    pb.Calibration.METHOD_UNSPECIFIED: Method.SOFTMAX,
    pb.Calibration.SOFTMAX: Method.SOFTMAX,
    pb.Calibration.SIGMOID: Method.SIGMOID,
    pb.Calibration.IDENTITY: Method.IDENTITY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Scores (N x S) to probabilities (N x S, float64); one sigmoid logit stands for two states: not so, and so."""

    method: Method = Method.SOFTMAX
    temperature: float = 1.0

    @classmethod
    def of(cls, given: pb.Calibration) -> Self:
        """The calibration that a message describes."""
        return cls(method=_METHODS[given.method], temperature=given.temperature or 1.0)

    def states(self, scores: int) -> int:
        """How many probabilities so many scores give."""
        return 2 if self.method is Method.SIGMOID and scores == 1 else scores

    def probabilities(self, scores: Array) -> Array:
        """The probabilities of N x S scores."""
        wide = scores.astype(np.float64)
        if self.method is Method.IDENTITY:
            return wide
        wide = wide / self.temperature
        if self.method is Method.SOFTMAX:
            with np.errstate(invalid="ignore"):  # infinity minus infinity is no number, and stays none
                shares = np.exp(wide - wide.max(axis=1, keepdims=True))
            return np.asarray(shares / shares.sum(axis=1, keepdims=True))
        with np.errstate(over="ignore"):
            chances = 1.0 / (1.0 + np.exp(-wide))
        return np.concatenate([1.0 - chances, chances], 1) if scores.shape[1] == 1 else np.asarray(chances)

    def nodes(self, scores: str, probabilities: str, width: int) -> Iterator[NodeProto]:
        """The same as nodes of an ONNX graph, from the tensor `scores` of `width` columns to `probabilities`."""
        wide, cool = f"{probabilities}/wide", f"{probabilities}/cool"
        if self.method is Method.IDENTITY:
            yield helper.make_node("Cast", [scores], [probabilities], to=TensorProto.DOUBLE)
            return
        yield helper.make_node("Cast", [scores], [wide], to=TensorProto.DOUBLE)
        yield _number(f"{cool}/by", self.temperature)
        yield helper.make_node("Div", [wide, f"{cool}/by"], [cool])
        if self.method is Method.SOFTMAX:
            yield helper.make_node("Softmax", [cool], [probabilities], axis=1)
        elif width != 1:
            yield helper.make_node("Sigmoid", [cool], [probabilities])
        else:
            yield helper.make_node("Sigmoid", [cool], [f"{cool}/so"])
            yield _number(f"{cool}/one", 1.0)
            yield helper.make_node("Sub", [f"{cool}/one", f"{cool}/so"], [f"{cool}/not"])
            yield helper.make_node("Concat", [f"{cool}/not", f"{cool}/so"], [probabilities], axis=1)


def _number(name: str, value: float) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, TensorProto.DOUBLE, [], [value]))
