"""Architectures and model packages."""

import subprocess
import sys

import pytest
import torch

from lepton.errors import InvalidArgument
from lepton.models import Architecture, ModelPackage, Signature, Tensor, build
from lepton.models.layers import Normalise

CONFIG = {"channels": 3, "height": 9, "width": 8, "classes": 5}
PACKAGE = ModelPackage(
    architecture=Architecture(name="image_classifier", config=CONFIG),
    files={"weights.safetensors": "sha256:" + "0" * 64, "golden.safetensors": "sha256:" + "1" * 64},
    signature=Signature(
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 3, 9, 8)),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 5)),),
    ),
    metrics={"accuracy": 0.98},
    lineage={"job": "projects/acme/jobs/digits", "seed": 3},
)


def test_a_classifier_gives_one_row_of_logits_per_image_and_takes_an_empty_batch() -> None:
    model = build(Architecture(name="image_classifier", config=CONFIG))
    assert model(torch.rand(4, 3, 9, 8)).shape == (4, 5)
    assert model(torch.rand(0, 3, 9, 8)).shape == (0, 5)


def test_the_normalisation_is_part_of_the_weights() -> None:
    model = build(Architecture(config=CONFIG))
    normalise = model.get_submodule("normalise")
    assert isinstance(normalise, Normalise)
    normalise.set(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 2.0]))
    again = build(Architecture(config=CONFIG))
    again.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 9, 8)
    assert torch.equal(model(images), again(images))
    assert again.state_dict()["normalise.mean"].flatten().tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"name": "transformer"}, "architecture.name"),
        ({"config": {"depth": 3}}, "architecture.config.depth"),
        ({"nam": "image_classifier"}, "architecture"),
        ({"config": {**CONFIG, "classes": 1}}, "architecture.config.classes"),
        ({"config": {**CONFIG, "hidden": True}}, "architecture.config.hidden"),
        ({"config": {"channels": 1, "height": 8, "width": 8}}, "architecture.config.classes"),
    ],
)
def test_a_wrong_architecture_is_refused_by_the_name_of_its_field(document: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Architecture.from_json(document).resolve()
    assert list(caught.value.fields) == [field]


def test_the_dataset_completes_what_the_spec_leaves_open() -> None:
    complete = Architecture(config={"features": 4}).complete(channels=1, height=8, width=8, classes=10)
    assert complete.config == {
        "channels": 1, "height": 8, "width": 8, "classes": 10, "features": 4, "hidden": 64, "poolings": 1,
    }  # fmt: skip


def test_a_package_survives_its_manifest() -> None:
    assert ModelPackage.parse(PACKAGE.render()) == PACKAGE
    assert ModelPackage.parse(PACKAGE.render()).render() == PACKAGE.render()


@pytest.mark.parametrize("wrong", [b"", b"{}", b"[]", PACKAGE.render().replace(b"model/1", b"model/9")])
def test_what_is_no_package_is_refused(wrong: bytes) -> None:
    with pytest.raises(InvalidArgument, match="MODEL_PACKAGE_INVALID"):
        ModelPackage.parse(wrong)


def test_importing_lepton_and_its_torch_side_modules_does_not_import_torch() -> None:
    program = (
        "import sys, lepton, lepton.data, lepton.models, lepton.recipes, lepton.train, lepton.artifacts; "
        "print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "False\n"
