"""`lepton deploy --pipeline --cost-matrix` and `lepton predict-batch`: what files say, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from google.protobuf.json_format import MessageToDict

from lepton.cli.batch_progress import bad_lines, progress_words
from lepton.cli.pipeline_file import PipelineOptions, Scores, read_cost_matrix, read_pipeline
from lepton.cli.predict_batch import _content
from lepton.errors import InvalidArgument, NotFound
from lepton.inference.v1.batch_prediction_pb2 import BadRow, BatchPrediction, BatchProgress
from lepton.inference.v1.model_pb2 import ModelVersion, TensorSpec
from lepton.inference.v1.pipeline_pb2 import Calibration

VERSION = ModelVersion(outputs=[TensorSpec(name="logits", datatype="FP32", shape=[-1, 2])])
COSTS = "state,grant,refuse\nrepays,0,20\n\ndefaults,500,0\n"
TOML = """
outputs = ["action"]
[[steps]]
name = "scale"
normalise = {mean = [1.0]}
[[steps]]
name = "model"
model = {}
[[steps]]
name = "choose"
decision = {}
[[steps]]
name = "p"
calibrate = {}
"""


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_cost_matrix_is_read_as_a_table(tmp_path: Path) -> None:
    step = read_cost_matrix(file(tmp_path, "costs.csv", COSTS))
    assert (list(step.states), list(step.actions)) == (["repays", "defaults"], ["grant", "refuse"])
    assert list(step.costs) == [0, 20, 500, 0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a header of actions"),
        ("state,a\none,1\n", "two states"),
        ("state,a,b\none,1\ntwo,1,2\n", "line 2 has 2 cells, the header 3"),
        ("state,a\none,x\ntwo,1\n", "the cost of 'a' is 'x'"),
        ("state,a\none,inf\ntwo,1\n", "write a number"),
    ],
)
def test_what_is_no_cost_matrix_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(typer.BadParameter, match=problem):
        read_cost_matrix(file(tmp_path, "costs.csv", text))


def test_a_matrix_alone_stands_behind_the_model_and_answers_its_scores_too(tmp_path: Path) -> None:
    costs = file(tmp_path, "costs.csv", COSTS)
    wish = PipelineOptions(cost_matrix=costs, scores=Scores.SIGMOID, temperature=2.0, abstain_cost=3.0)
    pipeline = wish.read(VERSION)
    assert pipeline is not None
    assert [step.name for step in pipeline.steps] == ["model", "decide"]
    assert list(pipeline.outputs)[-1] == "logits"
    decision = pipeline.steps[1].decision
    assert (decision.calibration.method, decision.calibration.temperature) == (Calibration.SIGMOID, 2.0)
    assert decision.abstain.cost == 3.0


def test_a_matrix_fills_the_pipelines_own_decision(tmp_path: Path) -> None:
    costs, pipeline = file(tmp_path, "costs.csv", COSTS), file(tmp_path, "pipeline.toml", TOML)
    made = PipelineOptions(cost_matrix=costs, pipeline=pipeline).read(VERSION)
    assert made is not None
    assert [step.WhichOneof("kind") for step in made.steps] == ["normalise", "model", "decision", "calibrate"]
    assert list(made.steps[2].decision.actions) == ["grant", "refuse"]


@pytest.mark.parametrize("name", ["pipeline.yaml", "pipeline.json"])
def test_the_other_forms_say_the_same(tmp_path: Path, name: str) -> None:
    right = read_pipeline(file(tmp_path, "pipeline.toml", TOML))
    told = json.dumps(MessageToDict(right, preserving_proto_field_name=True))
    assert read_pipeline(file(tmp_path, name, told)) == right  # JSON is YAML too


@pytest.mark.parametrize("text", ["[[steps", "[[steps]]\nname = 'a'\nnothing = {}"])
def test_what_is_no_pipeline_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no pipeline"):
        read_pipeline(file(tmp_path, "pipeline.toml", text))


def test_data_is_sent_as_it_is_or_as_one_canonical_file(tmp_path: Path) -> None:
    table = file(tmp_path, "rows.csv", "a\n1\n")
    assert _content(str(table)) == _content(str(tmp_path)) == table
    file(tmp_path, "more.jsonl", "{}")
    with pytest.raises(InvalidArgument, match="holds 2 files"):
        _content(str(tmp_path))
    with pytest.raises(NotFound):
        _content(str(tmp_path / "none.npz"))
    assert isinstance(_content("digits"), bytes)


def test_progress_is_told_in_a_line() -> None:
    told: dict[str, Any] = {"rows": 2000, "rows_done": 500, "rows_per_s": 250.0, "eta_s": 6.0, "bad_rows": 7}
    batch = BatchPrediction(progress=BatchProgress(**told, workers=2))
    assert progress_words(batch) == "500/2,000 rows  250 rows/s  7 bad  2 workers  eta 6s"
    batch.bad_rows.extend(BadRow(row=at, reason=BadRow.NOT_FINITE, message="x") for at in np.arange(6))
    assert bad_lines(batch)[0] == "bad row 0: NOT_FINITE: x"
    assert bad_lines(batch)[-1] == "and 2 more: see `lepton batch-predictions manifest`"
