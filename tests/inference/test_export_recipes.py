"""The export of every recipe's package: the ONNX file answers as the checkpoint did, at any batch size."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load

from lepton import data
from services.inference.compress.export_onnx import convert, prove
from tests.harness import datasets
from tests.harness.alone import train_alone

pytestmark = pytest.mark.integration

SMALL: dict[str, tuple[data.AnyDataset, dict[str, Any]]] = {
    "image_classifier": (datasets.mnist_like(60, seed=1), {"features": 4, "hidden": 8}),
    "text_classifier": (datasets.reviews(60, seed=1), {"width": 8, "vocabulary": 256}),
    "language_model": (datasets.stories(2000, seed=1), {"width": 16, "layers": 1, "context": 16}),
    "forecaster": (datasets.seasons(200, seed=1), {"hidden": 8}),
    "recommender": (datasets.tastes(200, seed=1), {}),
    "risk_model": (datasets.loans(200, seed=1), {"hidden": 8}),
}
DATATYPES = {"text_classifier": "INT64", "language_model": "INT64", "recommender": "INT64"}
OUTPUTS = {"forecaster": "forecast", "recommender": "rating"}


DEFAULT = ("text_classifier", "risk_model")


@pytest.mark.parametrize(
    "recipe", [each if each in DEFAULT else pytest.param(each, marks=pytest.mark.slow) for each in SMALL]
)
def test_a_package_of_every_recipe_is_exported_and_proven(tmp_path: Path, recipe: str) -> None:
    dataset, model = SMALL[recipe]
    trained = train_alone(tmp_path, dataset, recipe=recipe, epochs=1, model=model)
    (given,), (answered,) = trained.package.signature.inputs, trained.package.signature.outputs
    assert (given.name, given.datatype) == ("x", DATATYPES.get(recipe, "FP32"))
    assert (answered.name, answered.datatype) == (OUTPUTS.get(recipe, "logits"), "FP32")
    golden = trained.file("golden.safetensors")
    onnx = convert(trained.package, trained.file("weights.safetensors"), golden)
    prove(onnx, trained.package, golden)
    samples = load(golden)
    runtime = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    for rows in (1, 3):
        (answers,) = runtime.run([answered.name], {"x": samples["x"][:rows]})
        np.testing.assert_allclose(answers, samples[answered.name][:rows], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_package_with_several_heads_is_exported(tmp_path: Path) -> None:
    images = datasets.mnist_like(60, seed=1)
    both = data.Dataset(x=images.x, y=np.stack([images.y, images.y % 2], 1))
    trained = train_alone(tmp_path, both, epochs=1, model={"features": 4, "hidden": 8})
    golden = trained.file("golden.safetensors")
    prove(convert(trained.package, trained.file("weights.safetensors"), golden), trained.package, golden)
    assert trained.package.architecture.config["heads"] == [10, 2]
