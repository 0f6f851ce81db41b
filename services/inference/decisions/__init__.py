"""Owns decisions: the action of least expected cost, as a value, as an ONNX graph, and as the formula in numpy."""

from services.inference.decisions.calibration import Calibration
from services.inference.decisions.cost_matrix import Abstention, CostMatrix
from services.inference.decisions.graph import graph
from services.inference.decisions.reference import Decisions, decide

__all__ = ["Abstention", "Calibration", "CostMatrix", "Decisions", "decide", "graph"]
