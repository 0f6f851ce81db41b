"""Decisions: the ONNX graph against the formula, ties and what is no number included."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.errors import InvalidArgument
from lepton.inference.v1 import pipeline_pb2 as pb
from services.inference.decisions import Abstention, Calibration, CostMatrix, decide, graph
from services.inference.decisions.calibration import Method


def run(matrix: CostMatrix, scores: Any) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    kind = 11 if scores.dtype == np.float64 else 1
    session = onnxruntime.InferenceSession(
        graph(matrix, scores.shape[1], kind), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": scores}), strict=True))


@st.composite
def matrices(draw: st.DrawFn, method: Method, cost: st.SearchStrategy[float]) -> CostMatrix:
    states, actions = draw(st.integers(2, 5)), draw(st.integers(1, 5))
    return CostMatrix(
        states=tuple(f"s{at}" for at in range(states)),
        actions=tuple(f"a{at}" for at in range(actions)),
        costs=tuple(tuple(draw(cost) for _ in range(actions)) for _ in range(states)),
        calibration=Calibration(method=method, temperature=draw(st.sampled_from([0.5, 1.0, 2.0]))),
        abstain=draw(st.none() | cost.map(lambda c: Abstention(cost=c))),
        tie_tolerance=draw(st.sampled_from([0.0, 0.0, 0.5])),
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_graph_is_the_formula_to_the_bit_where_arithmetic_is_exact(data: st.DataObject) -> None:
    """Whole costs and probabilities in sixteenths: sums are exact in any order, so equal costs are really equal."""
    matrix = data.draw(matrices(Method.IDENTITY, st.integers(-4, 4).map(float)))
    width = len(matrix.states)
    sixteenth = st.lists(st.integers(0, 16).map(lambda n: n / 16), min_size=width, max_size=width)
    scores = np.array(data.draw(st.lists(sixteenth, min_size=1, max_size=8)), np.float32)
    if data.draw(st.booleans()):
        scores[0, 0] = np.nan
    expected, made = decide(matrix, scores), run(matrix, scores)
    for name in ("action", "expected_cost", "expected_costs", "probabilities"):
        np.testing.assert_array_equal(made[name], getattr(expected, name), err_msg=name)
    names = [*matrix.names, ""]
    assert made["action_name"].ravel().tolist() == [names[at] for at in expected.action.ravel()]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_graph_takes_an_action_that_the_formula_finds_best(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from([Method.SOFTMAX, Method.SIGMOID]))
    matrix = data.draw(matrices(method, st.floats(-100, 100)))
    width = len(matrix.states)
    row = st.lists(st.floats(-30, 30, width=32), min_size=width, max_size=width)
    scores = np.array(data.draw(st.lists(row, min_size=1, max_size=8)), np.float32)
    expected, made = decide(matrix, scores), run(matrix, scores)
    np.testing.assert_allclose(made["expected_costs"], expected.expected_costs, rtol=1e-9, atol=1e-9)
    # Rounding may decide between actions that cost the same but for it; never between others.
    chosen = np.take_along_axis(expected.expected_costs, made["action"], 1)
    least = expected.expected_costs.min(1, keepdims=True)
    assert (chosen <= least + matrix.tie_tolerance + 1e-9).all()
    np.testing.assert_allclose(made["expected_cost"], np.take_along_axis(made["expected_costs"], made["action"], 1))


MATRIX = CostMatrix(states=("good", "bad"), actions=("grant", "refuse"), costs=((0.0, 1.0), (4.0, 0.0)))


def test_of_actions_that_cost_the_same_the_first_is_taken() -> None:
    even = CostMatrix(
        states=("a", "b"),
        actions=("one", "two"),
        costs=((1.0, 1.0), (1.0, 1.0)),
        calibration=Calibration(method=Method.IDENTITY),
        abstain=Abstention(cost=1.0),
    )
    made = run(even, np.array([[0.5, 0.5]], np.float32))
    assert (made["action"].item(), made["action_name"].item()) == (0, "one")


def test_one_logit_stands_for_two_states() -> None:
    matrix = CostMatrix(
        states=MATRIX.states,
        actions=MATRIX.actions,
        costs=MATRIX.costs,
        calibration=Calibration(method=Method.SIGMOID),
    )
    made = run(matrix, np.array([[-3.0], [3.0]], np.float32))
    assert made["action"].ravel().tolist() == [0, 1]
    np.testing.assert_allclose(made["probabilities"].sum(1), 1.0)
    np.testing.assert_allclose(
        made["expected_costs"][0], [4 * made["probabilities"][0, 1], made["probabilities"][0, 0]]
    )


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_deferred_or_have_no_action(score: float) -> None:
    scores = np.array([[score, 0.0]], np.float32)
    alone = run(MATRIX, scores)
    assert (alone["action"].item(), alone["action_name"].item()) == (-1, "")
    assert np.isnan(alone["expected_cost"]).all()
    deferring = CostMatrix(
        states=MATRIX.states, actions=MATRIX.actions, costs=MATRIX.costs, abstain=Abstention(action="ask", cost=9.0)
    )
    made = run(deferring, scores)
    assert (made["action"].item(), made["action_name"].item(), made["expected_cost"].item()) == (2, "ask", 9.0)


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"costs": [0, 1, 2]}, "decision.costs", "holds 3 numbers; 2 states and 2 actions need 4"),
        ({"actions": ["a", "a"]}, "decision.actions", "a name of its own"),
        ({"states": ["a"], "costs": [1, 2]}, "decision.states", "two or more"),
        ({"costs": [0, 1, 2, float("nan")]}, "decision.costs", "finite"),
        ({"actions": ["grant", "abstain"], "abstain": {"cost": 1}}, "decision.actions", "a name of its own"),
    ],
)
def test_a_wrong_matrix_is_refused_with_the_field(changes: dict[str, Any], field: str, problem: str) -> None:
    step = {"states": ["good", "bad"], "actions": ["grant", "refuse"], "costs": [0, 1, 4, 0], **changes}
    with pytest.raises(InvalidArgument) as refused:
        CostMatrix.of(pb.DecisionStep(**step))
    assert problem in refused.value.fields[field]
