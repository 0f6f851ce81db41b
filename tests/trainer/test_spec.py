"""The training spec: what a job's ranks read, checked field by field."""

import json
import subprocess
import sys
from typing import Any

import pytest

from lepton.errors import InvalidArgument
from lepton.recipes import RECIPES as INFO
from services.trainer.worker.recipes import MODULES
from services.trainer.worker.spec import RECIPES, TrainingSpec

DATASET = "sha256:" + "0" * 64


def test_a_spec_survives_its_json() -> None:
    spec = TrainingSpec(project="acme", dataset=DATASET, seed=3, model={"features": 8})
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
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": True}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"schedule": "sawtooth"}, "schedule"),
        ({"precision": "fp8"}, "precision"),
        ({"momentum": 0.9}, "momentum"),
        ({"momentum": 1.0, "optimizer": "sgd"}, "momentum"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"clip_norm": float("inf")}, "clip_norm"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"stop_metric": "loss", "stop_patience_epochs": 1}, "stop_metric"),
        ({"stop_patience_epochs": 1, "validation_fraction": 0}, "stop_patience_epochs"),
        ({"initial_model": "digits"}, "initial_model"),
        ({"freeze_trunk": True}, "freeze_trunk"),
        ({"model": 3}, "model"),
        ({"model": {"depth": 3}}, "model.depth"),
        ({"model": {"hidden": 0.5}}, "model.hidden"),
        ({"model": {"hidden": True}}, "model.hidden"),
        ({"recipe": "forecaster", "model": {"features": 8}}, "model.features"),
        ({"architecture": 3}, "architecture"),
        ({"architecture": {"name": "x"}}, "architecture.name"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_a_wrong_field_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        TrainingSpec.parse(json.dumps({"project": "acme", "dataset": DATASET, **settings}))
    assert list(caught.value.fields) == [field]


def test_an_unknown_setting_of_the_model_is_refused_naming_those_that_are_known() -> None:
    with pytest.raises(InvalidArgument) as caught:
        TrainingSpec.of(project="acme", dataset=DATASET, recipe="recommender", model={"depth": 3})
    assert caught.value.fields == {"model.depth": "is not a setting of recommender; it knows hidden, width"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_left_open_has_the_recipes_own_default(recipe: str) -> None:
    spec = TrainingSpec.parse(json.dumps({"project": "acme", "dataset": DATASET, "recipe": recipe}))
    assert (spec.epochs, spec.batch_size) == (INFO[recipe].defaults.epochs, INFO[recipe].defaults.batch_size)
    assert spec.model == INFO[recipe].complete({})
    assert TrainingSpec.parse(spec.render()) == spec


def test_the_default_rate_goes_with_the_root_of_the_batch_size_and_sgd_takes_more() -> None:
    whole, quarter, sgd = (
        TrainingSpec.of(project="acme", dataset=DATASET, batch_size=size, optimizer=optimizer)
        for size, optimizer in ((128, "adamw"), (32, "adamw"), (128, "sgd"))
    )
    assert quarter.learning_rate == pytest.approx(whole.learning_rate / 2)
    assert sgd.learning_rate == pytest.approx(whole.learning_rate * 10)
    assert (whole.weight_decay, sgd.weight_decay) == (0.05, 0.0)


def test_a_spec_of_the_first_release_still_says_the_same() -> None:
    former = {
        "project": "acme", "dataset": DATASET, "recipe": "image_classifier", "epochs": 20, "batch_size": 128,
        "learning_rate": 0.005, "weight_decay": 0.05, "seed": 0, "test_fraction": 0.2, "shift_pixels": 1,
        "checkpoint_every_steps": 0, "report_every_steps": 10,
        "architecture": {"name": "image_classifier", "config": {"features": 8}},
    }  # fmt: skip
    spec = TrainingSpec.parse(json.dumps(former))
    assert (spec.model["features"], spec.model["shift_pixels"], spec.model["poolings"]) == (8, 1, 1)
    assert (spec.learning_rate, spec.weight_decay, spec.epochs) == (0.005, 0.05, 20)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"3"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        TrainingSpec.parse(data)


def test_every_recipe_has_its_module() -> None:
    assert set(MODULES) == set(RECIPES)


def test_a_service_renders_a_spec_without_torch() -> None:
    program = "import sys, services.trainer.worker.spec; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"
