"""The declared costs of actions in the states of the world; pure."""

import math
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from lepton.errors import InvalidArgument
from lepton.inference.v1 import pipeline_pb2 as pb
from services.inference.decisions.calibration import Array, Calibration

ABSTAIN: Final = "abstain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """An action that costs the same whatever the state is, such as to ask a person."""

    action: str = ABSTAIN
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostMatrix:
    """Costs (states x actions). The order of the actions, the abstention behind them, decides between equal costs."""

    states: tuple[str, ...]
    actions: tuple[str, ...]
    costs: tuple[tuple[float, ...], ...]
    calibration: Calibration = field(default_factory=Calibration)
    abstain: Abstention | None = None
    tie_tolerance: float = 0.0

    def __post_init__(self) -> None:
        if len(self.states) < 2 or len(set(self.states)) != len(self.states) or "" in self.states:
            raise _invalid("states", "must be two or more, each with a name of its own")
        if not self.actions or len(set(self.names)) != len(self.names) or "" in self.actions:
            raise _invalid("actions", "must be one or more, each with a name of its own")
        if len(self.costs) != len(self.states) or any(len(row) != len(self.actions) for row in self.costs):
            counts = f"{len(self.states)} states and {len(self.actions)} actions"
            raise _invalid("costs", f"must hold a cost for each of {counts}: {len(self.states) * len(self.actions)}")
        flat = [cost for row in self.costs for cost in row]
        if not all(map(math.isfinite, [*flat, self.tie_tolerance, self.abstain.cost if self.abstain else 0.0])):
            raise _invalid("costs", "must be finite numbers")
        if self.tie_tolerance < 0:
            raise _invalid("tie_tolerance", "must be 0 or more")

    @classmethod
    def of(cls, given: pb.DecisionStep) -> Self:
        """The matrix of a step. Raises InvalidArgument."""
        width = len(given.actions)
        if not width or len(given.costs) != len(given.states) * width:
            problem = f"holds {len(given.costs)} numbers; {len(given.states)} states and {width} actions need "
            raise _invalid("costs", f"{problem}{len(given.states) * width}")
        rows = [tuple(given.costs[at : at + width]) for at in range(0, len(given.costs), width)]
        abstain = None
        if given.HasField("abstain"):
            abstain = Abstention(action=given.abstain.action or ABSTAIN, cost=given.abstain.cost)
        return cls(
            states=tuple(given.states),
            actions=tuple(given.actions),
            costs=tuple(rows),
            calibration=Calibration.of(given.calibration),
            abstain=abstain,
            tie_tolerance=given.tie_tolerance,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The actions in their order, the abstention last."""
        return (*self.actions, *((self.abstain.action,) if self.abstain else ()))

    @property
    def matrix(self) -> Array:
        """The costs as float64, states x actions."""
        return np.array(self.costs, np.float64)


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={f"decision.{name}": problem})
