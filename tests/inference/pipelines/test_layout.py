"""Pipelines are checked when they are declared: errors name the step and the tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from lepton.errors import InvalidArgument
from lepton.inference.v1.pipeline_pb2 import Pipeline
from services.inference.pipelines.layout import Layout
from services.inference.pipelines.prepared import Prepared
from services.inference.pipelines.steps import KINDS
from tests.inference.pipelines.conftest import Shelf
from tests.inference.pipelines.test_pipelines_on_triton import DECISION, RISK

MODEL: dict[str, Any] = {"name": "model", "model": {}}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(f"file://{tmp_path}/artifacts")
    made.add("", np.ones((3, 2), np.float32))
    return made


@pytest.mark.parametrize(
    ("steps", "field", "problem"),
    [
        ([MODEL, {"name": "t", "top_k": {"k": 3}}], "steps[1:t].k", "is 3; x has 2 scores"),
        ([MODEL, {"name": "t", "top_k": {"k": 1, "labels": ["a"]}}], "steps[1:t].labels", "holds 1 for 2 scores"),
        ([MODEL, {"name": "d", "decision": {**DECISION, "states": ["a", "b", "c"], "costs": [0] * 6}}],
         "steps[1:d].states", "names 3, but x has 2 scores"),
        ([MODEL, {"name": "d", "decision": {**DECISION, "costs": [1]}}], "steps[1:d].costs", "holds 1 numbers"),
        ([MODEL, {"name": "n", "normalise": {"mean": [1, 2, 3]}}], "steps[1:n].mean", "the tensor 'logits'"),
        ([MODEL, {"name": "n", "normalise": {"deviation": [0]}}], "steps[1:n].deviation", "holds a 0"),
        ([MODEL, {"name": "r", "resize": {"height": 2, "width": 2}}], "steps[1:r].inputs.x", "the tensor 'logits'"),
        ([MODEL, {"name": "o", "one_hot": {"depth": 2}}], "steps[1:o].inputs.x", "it must be INT64"),
        ([MODEL, {"name": "c", "concatenate": {"count": 2}}], "steps[1:c].inputs.x0", "must say which tensor"),
        ([MODEL, {"name": "p", "calibrate": {}, "inputs": {"x": "nowhere"}}], "steps[1:p].inputs.x", "'nowhere'"),
        ([MODEL, {"name": "p", "calibrate": {}, "inputs": {"z": "logits"}}], "steps[1:p].inputs.z", "is no input"),
        ([MODEL, {"name": "p", "calibrate": {}, "outputs": {"y": "logits"}}], "steps[1:p].outputs.y", "second tensor"),
        ([MODEL, {"name": "model", "calibrate": {}}], "steps[1:model].name", "an earlier step"),
        ([MODEL, {"name": "p", "calibrate": {}}, {"name": "q", "calibrate": {}, "inputs": {"x": "logits"},
          "outputs": {"y": "z"}}], "steps[1:p]", "which nobody takes"),
        ([MODEL, {"name": "again", "model": {}, "inputs": {"x": "logits"}, "outputs": {"logits": "z"}}],
         "steps[1:again].inputs.x", "is logits FP32[-1, 2], but the model takes FP32[-1, 3]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(shelf: Shelf, steps: list[Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        shelf.layout({"steps": steps})
    ((found, told),) = refused.value.fields.items()
    assert (found, problem in told) == (f"deployment.pipeline.{field}", True), refused.value.fields


@pytest.mark.parametrize(
    ("inputs", "outputs", "field"),
    [
        ([{"name": "x", "datatype": "FP31", "shape": [-1, 3]}], [], "inputs[0:x].datatype"),
        ([{"name": "x", "datatype": "FP32", "shape": [2, 3]}], [], "inputs[0:x].shape"),
        ([{"name": "x", "datatype": "FP32", "shape": [-1, 3]}, {"name": "z", "datatype": "FP32", "shape": [-1, 1]}], [],
         "inputs[1:z]"),
        ([], ["nothing"], "outputs[0]"),
        ([], ["x"], "outputs[0]"),
    ],
)  # fmt: skip
def test_wrong_ends_are_refused(shelf: Shelf, inputs: list[Any], outputs: list[str], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        shelf.layout({"inputs": inputs, "steps": [MODEL], "outputs": outputs})
    assert list(refused.value.fields) == [f"deployment.pipeline.{field}"]


def test_an_explicit_pipeline_says_the_same_once_more(shelf: Shelf) -> None:
    layout = shelf.layout(RISK)
    pipeline = layout.explicit(_parsed(RISK))
    again = Layout.of(pipeline, shelf.signatures)
    assert again == layout
    assert again.explicit(pipeline) == pipeline
    assert MessageToDict(pipeline.steps[0])["inputs"] == {"x": "amounts"}


def test_every_kind_of_step_is_known() -> None:
    """A step that the proto can say and nobody can run would fail where it is deployed."""
    oneof = Pipeline.DESCRIPTOR.fields_by_name["steps"].message_type.oneofs_by_name["kind"]
    assert {field.name for field in oneof.fields} == {*KINDS, "model"}


def test_a_pipeline_is_prepared_with_golden_requests_of_every_step(shelf: Shelf) -> None:
    prepared = Prepared.parse(shelf.store.read("demo", shelf.prepared(RISK)))
    assert [step.name for step in prepared.steps] == [step["name"] for step in RISK["steps"]]
    assert Prepared.parse(prepared.render()) == prepared
    assert shelf.prepared(RISK) == shelf.prepared(RISK)  # a repeat makes the same


def _parsed(document: Any) -> Pipeline:
    return ParseDict(document, Pipeline())
