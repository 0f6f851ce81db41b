"""The decision as its formula: `D = argmin_a sum_s p(s) cost(s, a)`, in numpy; what the ONNX graph is proved against.

Chow: On Optimum Recognition Error and Reject Tradeoff, 1970 (the abstention is its reject option).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from services.inference.decisions.calibration import Array
from services.inference.decisions.cost_matrix import CostMatrix

NO_ACTION: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decisions:
    """A decision for each of N rows."""

    action: Array  # N x 1, int64; -1 where there is none
    expected_cost: Array  # N x 1, float64
    expected_costs: Array  # N x actions, float64, that of the abstention last
    probabilities: Array  # N x states, float64


def decide(matrix: CostMatrix, scores: Array) -> Decisions:
    """The action of least expected cost for N x S scores; of those within the tie tolerance the first.

    Where a score is no number the action is the abstention, at its cost, or -1 and NaN without one.
    """
    probabilities = matrix.calibration.probabilities(scores)
    expected = probabilities @ matrix.matrix
    if matrix.abstain is not None:
        expected = np.concatenate([expected, np.full((len(expected), 1), matrix.abstain.cost)], 1)
    is_sound = ~np.isnan(probabilities.sum(1, keepdims=True))
    known = np.where(is_sound, expected, 0.0)
    is_best = known <= known.min(1, keepdims=True) + matrix.tie_tolerance
    first = is_best.argmax(1, keepdims=True)
    instead = len(matrix.actions) if matrix.abstain is not None else NO_ACTION
    price = matrix.abstain.cost if matrix.abstain is not None else np.nan
    return Decisions(
        action=np.where(is_sound, first, instead).astype(np.int64),
        expected_cost=np.where(is_sound, np.take_along_axis(known, first, 1), price),
        expected_costs=expected,
        probabilities=probabilities,
    )
