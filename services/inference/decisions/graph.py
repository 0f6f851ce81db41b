"""The decision as an ONNX graph, so that whatever runs models runs it too."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from services.inference.decisions.cost_matrix import CostMatrix
from services.inference.decisions.reference import NO_ACTION

SCORES: Final = "x"
ACTION: Final = "action"
ACTION_NAME: Final = "action_name"
EXPECTED_COST: Final = "expected_cost"
EXPECTED_COSTS: Final = "expected_costs"
PROBABILITIES: Final = "probabilities"


def graph(matrix: CostMatrix, width: int, scores: int = TensorProto.FLOAT) -> bytes:
    """The graph that decides for N x `width` scores of an ONNX type; equal matrices give equal bytes."""
    known = len(matrix.names)
    outputs = [
        helper.make_tensor_value_info(ACTION, TensorProto.INT64, ["batch", 1]),
        helper.make_tensor_value_info(ACTION_NAME, TensorProto.STRING, ["batch", 1]),
        helper.make_tensor_value_info(EXPECTED_COST, TensorProto.DOUBLE, ["batch", 1]),
        helper.make_tensor_value_info(EXPECTED_COSTS, TensorProto.DOUBLE, ["batch", known]),
        helper.make_tensor_value_info(PROBABILITIES, TensorProto.DOUBLE, ["batch", len(matrix.states)]),
    ]
    price = matrix.abstain.cost if matrix.abstain is not None else float("nan")
    instead = len(matrix.actions) if matrix.abstain is not None else NO_ACTION
    constants = [
        numpy_helper.from_array(matrix.matrix, "costs"),
        numpy_helper.from_array(np.array(matrix.tie_tolerance, np.float64), "tolerance"),
        numpy_helper.from_array(np.array(0.0, np.float64), "zero"),
        numpy_helper.from_array(np.array([[price]], np.float64), "price"),
        numpy_helper.from_array(np.array([[instead]], np.int64), "instead"),
        numpy_helper.from_array(np.array([1], np.int64), "columns"),
        # One name more than there are actions: what index -1 finds.
        numpy_helper.from_array(np.array([*matrix.names, ""], object), "names"),
    ]
    made = helper.make_graph(
        list(_nodes(matrix, width)),
        "decision",
        [helper.make_tensor_value_info(SCORES, scores, ["batch", width])],
        outputs,
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def _nodes(matrix: CostMatrix, width: int) -> Iterator[NodeProto]:
    node = helper.make_node
    yield from matrix.calibration.nodes(SCORES, PROBABILITIES, width)
    if matrix.abstain is None:
        yield node("MatMul", [PROBABILITIES, "costs"], [EXPECTED_COSTS])
    else:
        yield node("MatMul", [PROBABILITIES, "costs"], ["declared"])
        yield node("Shape", [PROBABILITIES], ["rows"], start=0, end=1)
        yield node("Concat", ["rows", "columns"], ["column"], axis=0)
        yield node("Expand", ["price", "column"], ["abstaining"])
        yield node("Concat", ["declared", "abstaining"], [EXPECTED_COSTS], axis=1)
    yield node("ReduceSum", [PROBABILITIES, "columns"], ["sum"], keepdims=1)
    yield node("IsNaN", ["sum"], ["unsound"])
    yield node("Where", ["unsound", "zero", EXPECTED_COSTS], ["known"])
    yield node("ReduceMin", ["known", "columns"], ["least"], keepdims=1)
    yield node("Add", ["least", "tolerance"], ["limit"])
    yield node("LessOrEqual", ["known", "limit"], ["is_best"])
    yield node("Cast", ["is_best"], ["best"], to=TensorProto.INT32)
    yield node("ArgMax", ["best"], ["first"], axis=1, keepdims=1, select_last_index=0)
    yield node("GatherElements", ["known", "first"], ["cost"], axis=1)
    yield node("Where", ["unsound", "instead", "first"], [ACTION])
    yield node("Where", ["unsound", "price", "cost"], [EXPECTED_COST])
    yield node("Gather", ["names", ACTION], [ACTION_NAME], axis=0)
