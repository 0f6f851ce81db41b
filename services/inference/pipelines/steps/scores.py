"""Steps over scores: calibrate, top-k, threshold, decision."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lepton.models import Tensor
from services.inference.decisions import Calibration, CostMatrix, decide
from services.inference.decisions import graph as decision_graph
from services.inference.pipelines.steps.step import (
    ONNX_TYPES,
    SCORES,
    Array,
    Mismatch,
    must,
    onnx_model,
    random_numbers,
    texts,
    words,
)


class OfScores:
    """What steps over one tensor of scores have in common: `x`, batch x n."""

    __slots__ = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """`x`."""
        return ("x",)

    def samples(self, given: Mapping[str, Tensor], rows: int, random: np.random.Generator) -> Mapping[str, Array]:
        """Any scores."""
        return {"x": random_numbers(given["x"], rows, random)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrate(OfScores):
    """Scores as probabilities, FP64."""

    calibration: Calibration

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`y`."""
        x = _scores(given)
        return (Tensor(name="y", datatype="FP64", shape=(-1, self.calibration.states(x.shape[1]))),)

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """The calibration's nodes."""
        x = _scores(given)
        return onnx_model("calibrate", list(self.calibration.nodes("x", "y", x.shape[1])), [x], self.outputs(given))

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """The formula."""
        return {"y": self.calibration.probabilities(arrays["x"])}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK(OfScores):
    """The largest scores, their indices and labels; of equal ones that of the lower index first."""

    k: int
    labels: tuple[str, ...] = ()

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`values`, `indices`, `labels`."""
        x = _scores(given)
        if not 1 <= self.k <= x.shape[1]:
            raise Mismatch("k", f"is {self.k}; x has {x.shape[1]} scores")
        if self.labels and len(self.labels) != x.shape[1]:
            raise Mismatch("labels", f"holds {len(self.labels)} for {x.shape[1]} scores; give one for each")
        shape = (-1, self.k)
        numbers = (
            Tensor(name="values", datatype=x.datatype, shape=shape),
            Tensor(name="indices", datatype="INT64", shape=shape),
        )
        return (*numbers, Tensor(name="labels", datatype="BYTES", shape=shape)) if self.labels else numbers

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """TopK, and the labels at its indices."""
        nodes = [helper.make_node("TopK", ["x", "k"], ["values", "indices"], axis=1, largest=1, sorted=1)]
        constants = [numpy_helper.from_array(np.array([self.k], np.int64), "k")]
        if self.labels:
            nodes.append(helper.make_node("Gather", ["names", "indices"], ["labels"]))
            constants.append(words("names", self.labels))
        return onnx_model("top_k", nodes, [_scores(given)], self.outputs(given), constants)

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """A stable sort."""
        x = arrays["x"]
        indices = np.argsort(-x, axis=1, kind="stable")[:, : self.k].astype(np.int64)
        found = {"values": np.take_along_axis(x, indices, 1), "indices": indices}
        return {**found, "labels": texts(self.labels)[indices]} if self.labels else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold(OfScores):
    """Whether each score is its threshold or more."""

    thresholds: tuple[float, ...]

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """`y`, BOOL."""
        x = _scores(given)
        if len(self.thresholds) not in (1, x.shape[1]):
            problem = f"holds {len(self.thresholds)} numbers for {x.shape[1]} scores; give 1 or {x.shape[1]}"
            raise Mismatch("thresholds", problem)
        return (Tensor(name="y", datatype="BOOL", shape=x.shape),)

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """GreaterOrEqual, in FP64."""
        nodes = [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("GreaterOrEqual", ["wide", "thresholds"], ["y"]),
        ]
        limits = numpy_helper.from_array(np.array([self.thresholds], np.float64), "thresholds")
        return onnx_model("threshold", nodes, [_scores(given)], self.outputs(given), [limits])

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """A comparison."""
        return {"y": arrays["x"].astype(np.float64) >= np.array([self.thresholds], np.float64)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(OfScores):
    """The action of least expected cost."""

    matrix: CostMatrix

    def outputs(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The action, its name and cost, the costs of all actions, the probabilities."""
        x = _scores(given)
        states = self.matrix.calibration.states(x.shape[1])
        if states != len(self.matrix.states):
            stands = f"x has {x.shape[1]} scores, which stand for {states} states"
            raise Mismatch("states", f"names {len(self.matrix.states)}, but {stands}; name each of those")
        return (
            Tensor(name="action", datatype="INT64", shape=(-1, 1)),
            Tensor(name="action_name", datatype="BYTES", shape=(-1, 1)),
            Tensor(name="expected_cost", datatype="FP64", shape=(-1, 1)),
            Tensor(name="expected_costs", datatype="FP64", shape=(-1, len(self.matrix.names))),
            Tensor(name="probabilities", datatype="FP64", shape=(-1, states)),
        )

    def graph(self, given: Mapping[str, Tensor]) -> bytes:
        """The decision's own."""
        x = _scores(given)
        return decision_graph(self.matrix, x.shape[1], ONNX_TYPES[x.datatype])

    def reference(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """The formula."""
        made = decide(self.matrix, arrays["x"])
        names = texts([*self.matrix.names, ""])
        return {
            "action": made.action,
            "action_name": names[made.action],
            "expected_cost": made.expected_cost,
            "expected_costs": made.expected_costs,
            "probabilities": made.probabilities,
        }


def _scores(given: Mapping[str, Tensor]) -> Tensor:
    x = must(given["x"], "x", types=SCORES, ranks=(2,))
    if x.shape[1] < 1:
        raise Mismatch("x", "has a free number of scores; it must be known")
    return replace(x, name="x")
