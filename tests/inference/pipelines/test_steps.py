"""Each declared step: its ONNX graph gives what its formula says."""

import numpy as np
import onnxruntime
import pytest

from lepton.models import Tensor
from services.inference.decisions import Calibration
from services.inference.pipelines.steps.numbers import Concatenate, Normalise, OneHot
from services.inference.pipelines.steps.pictures import Resize
from services.inference.pipelines.steps.scores import Calibrate, Threshold, TopK
from services.inference.pipelines.steps.step import Step
from services.inference.pipelines.steps.text import Lookup, Tokenise


def tensor(name: str, datatype: str, *shape: int) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=(-1, *shape))


CASES: list[tuple[Step, dict[str, Tensor]]] = [
    (Normalise(mean=(1.0, 2.0), deviation=(2.0, 3.0)), {"x": tensor("p", "UINT8", 2, 4, 4)}),
    (Normalise(), {"x": tensor("p", "FP16", 3)}),
    (Resize(height=5, width=9), {"x": tensor("p", "FP32", 3, 8, -1)}),
    (Resize(height=4, width=3), {"x": tensor("p", "UINT8", 1, 9, 7)}),
    (OneHot(depth=3), {"x": tensor("p", "INT64", 2)}),
    (Concatenate(count=2), {"x0": tensor("p", "FP32", 2), "x1": tensor("q", "FP32", -1)}),
    (Concatenate(count=2), {"x0": tensor("p", "BYTES", 1), "x1": tensor("q", "BYTES", 2)}),
    (Lookup(keys=("a", "b"), otherwise=-1), {"x": tensor("p", "BYTES", 2)}),
    (Lookup(keys=("ja", "nein"), values=(7, -7)), {"x": tensor("p", "BYTES", -1)}),
    (Tokenise(vocabulary=("good", "bad", "ä"), length=5, first=2, unknown=1), {"x": tensor("p", "BYTES", 1)}),
    (Calibrate(calibration=Calibration(temperature=2.0)), {"x": tensor("p", "FP32", 3)}),
    (TopK(k=2, labels=("a", "b", "c")), {"x": tensor("p", "FP64", 3)}),
    (TopK(k=3), {"x": tensor("p", "FP32", 3)}),
    (Threshold(thresholds=(0.5,)), {"x": tensor("p", "FP32", 3)}),
    (Threshold(thresholds=(0.5, -1.0)), {"x": tensor("p", "FP32", 2)}),
]


@pytest.mark.parametrize(("step", "given"), CASES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("rows", [1, 7])
def test_the_graph_gives_what_the_formula_says(step: Step, given: dict[str, Tensor], rows: int) -> None:
    samples = step.samples(given, rows, np.random.default_rng(rows))
    session = onnxruntime.InferenceSession(step.graph(given), providers=["CPUExecutionProvider"])
    names = [each.name for each in step.outputs(given)]
    made = dict(zip(names, session.run(names, dict(samples)), strict=True))
    for name, right in step.reference(samples).items():
        assert made[name].shape == right.shape
        if right.dtype.kind == "f":
            assert made[name].dtype == right.dtype
            np.testing.assert_allclose(made[name], right, rtol=1e-5, atol=1e-5)
        else:
            assert (made[name] == right).all()
