"""Pipelines and cost matrices as people write them: TOML, YAML or JSON, and a table of costs."""

import csv
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from google.protobuf.json_format import ParseDict, ParseError

from lepton.documents import read_document
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.inference.v1.pipeline_pb2 import Calibration, DecisionStep, Pipeline

_PANEL: Final = "Around the model"
_STEP: Final = "decide"
_DECIDED: Final = ("action", "action_name", "expected_cost", "expected_costs", "probabilities")


class Scores(StrEnum):
    """What a model's scores are."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"


_CALIBRATION: Final = {
    Scores.SOFTMAX: Calibration.SOFTMAX,
    Scores.SIGMOID: Calibration.SIGMOID,
    Scores.IDENTITY: Calibration.IDENTITY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """What happens before and after the model."""

    pipeline: Annotated[
        Path | None,
        typer.Option(help="Steps before, between and after models: a .toml, .yaml or .json.", rich_help_panel=_PANEL),
    ] = None
    cost_matrix: Annotated[
        Path | None,
        typer.Option(
            help="Answer the action of least expected cost: a .csv, states by actions.", rich_help_panel=_PANEL
        ),
    ] = None
    scores: Annotated[
        Scores, typer.Option(help="What the model's scores are, for --cost-matrix.", rich_help_panel=_PANEL)
    ] = Scores.SOFTMAX
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Scores are divided by it first; 0 = 1.", rich_help_panel=_PANEL)
    ] = 0.0
    abstain_cost: Annotated[
        float | None,
        typer.Option(help="Also allow the action `abstain`, at this cost in every state.", rich_help_panel=_PANEL),
    ] = None

    def read(self, version: ModelVersion) -> Pipeline | None:
        """The pipeline that is wished around a version; None when there is none. Raises typer.BadParameter."""
        if self.cost_matrix is None:
            if self.abstain_cost is not None:
                raise typer.BadParameter("--abstain-cost needs --cost-matrix")
            return read_pipeline(self.pipeline) if self.pipeline is not None else None
        decision = read_cost_matrix(self.cost_matrix)
        decision.calibration.method = _CALIBRATION[self.scores]
        decision.calibration.temperature = self.temperature
        if self.abstain_cost is not None:
            decision.abstain.cost = self.abstain_cost
        if self.pipeline is not None:
            pipeline = read_pipeline(self.pipeline)
        else:
            pipeline = Pipeline(outputs=[*_DECIDED, *(tensor.name for tensor in version.outputs)])
            pipeline.steps.add(name="model").model.SetInParent()
        _place(pipeline, decision)
        return pipeline


def _place(pipeline: Pipeline, decision: DecisionStep) -> None:
    """Where the pipeline has a decision without costs, else behind its last step."""
    for step in pipeline.steps:
        if step.WhichOneof("kind") == "decision" and not step.decision.costs:
            step.decision.CopyFrom(decision)
            return
    pipeline.steps.add(name=_STEP).decision.CopyFrom(decision)


def read_pipeline(path: Path) -> Pipeline:
    """A pipeline in the words of the proto. Raises typer.BadParameter.

    [[steps]]
    name = "scale"
    normalise = {mean = [0.0], deviation = [16.0]}

    [[steps]]
    name = "model"
    model = {}
    """
    try:
        return ParseDict(read_document(path), Pipeline())
    except (ParseError, ValueError, OSError) as error:
        raise typer.BadParameter(f"{path} is no pipeline: {error}") from None


def read_cost_matrix(path: Path) -> DecisionStep:
    """A table of costs: a header of actions behind one cell, then a line for each state. Raises typer.BadParameter.

    state,approve,decline
    repays,0,20
    defaults,500,0
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise typer.BadParameter(f"{path} is no table of costs: {error}") from None
    if len(rows) < 3 or len(rows[0]) < 2:
        raise typer.BadParameter(f"{path}: write a header of actions, then a line for each of two states or more")
    actions, step = rows[0][1:], DecisionStep()
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise typer.BadParameter(f"{path}, line {number} has {len(row)} cells, the header {len(rows[0])}")
        step.states.append(row[0])
        step.costs.extend(_cost(path, number, action, cell) for action, cell in zip(actions, row[1:], strict=True))
    step.actions.extend(actions)
    return step


def _cost(path: Path, line: int, action: str, cell: str) -> float:
    try:
        cost = float(cell)
    except ValueError:
        cost = math.nan
    if not math.isfinite(cost):
        raise typer.BadParameter(f"{path}, line {line}: the cost of {action!r} is {cell!r}; write a number")
    return cost
