"""The training spec: what a job's ranks read, checked field by field."""

import json
import subprocess
import sys
from typing import Any

import pytest

from lepton.errors import InvalidArgument
from lepton.models.architecture import Architecture
from services.trainer.worker.recipes import MODULES
from services.trainer.worker.spec import RECIPES, TrainingSpec

DATASET = "sha256:" + "0" * 64


def test_a_spec_survives_its_json() -> None:
    spec = TrainingSpec(project="acme", dataset=DATASET, seed=3, architecture=Architecture(config={"features": 8}))
    assert TrainingSpec.parse(spec.render()) == spec
    assert TrainingSpec.parse(spec.render()).digest == spec.digest


def test_only_project_and_dataset_are_required() -> None:
    spec = TrainingSpec.parse(json.dumps({"project": "acme", "dataset": DATASET}))
    assert spec == TrainingSpec(project="acme", dataset=DATASET)


def test_every_setting_counts_for_the_digest() -> None:
    assert (
        TrainingSpec(project="acme", dataset=DATASET, seed=1).digest
        != TrainingSpec(project="acme", dataset=DATASET).digest
    )


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"project": None}, "project"),
        ({"project": "../x"}, "project"),
        ({"dataset": "digits"}, "dataset"),
        ({"recipe": "os.system"}, "recipe"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": True}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"architecture": 3}, "architecture"),
        ({"architecture": {"name": "x"}}, "architecture.name"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_a_wrong_field_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        TrainingSpec.parse(json.dumps({"project": "acme", "dataset": DATASET, **settings}))
    assert list(caught.value.fields) == [field]


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"3"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        TrainingSpec.parse(data)


def test_every_recipe_has_its_module() -> None:
    assert set(MODULES) == set(RECIPES)


def test_a_service_renders_a_spec_without_torch() -> None:
    program = "import sys, services.trainer.worker.spec; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"
