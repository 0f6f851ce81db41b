"""A job's recipe as its ranks' specification: everything that a job may say arrives, and what is wrong is named."""

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from chassis.resources import now
from lepton.errors import InvalidArgument
from lepton.trainer.v1.job_pb2 import CheckpointPolicy, Job, Recipe
from services.trainer.recipe_spec import training_spec
from services.trainer.submission import new_job
from tests.trainer.conftest import job_request

PACKAGE = "sha256:" + "c" * 64


def job_of(recipe: dict[str, Any], **fields: Any) -> Job:
    return new_job(job_request(recipe=ParseDict(recipe, Recipe()), **fields), "", now())


def test_everything_that_a_recipe_may_say_arrives() -> None:
    said = {
        "name": "language_model",
        "epochs": 3,
        "batch_size": 64,
        "learning_rate": 0.01,
        "seed": 5,
        "test_fraction": 0.3,
        "validation_fraction": 0.2,
        "optimizer": {"algorithm": "SGD", "momentum": 0.9, "weight_decay": 0.0, "clip_norm": 1.0},
        "schedule": {"shape": "STEP", "warmup_steps": 0, "decay": 0.5, "decay_epochs": 2},
        "precision": "BF16",
        "gradient_accumulation_steps": 4,
        "early_stopping": {"metric": "validation_perplexity", "patience_epochs": 2, "min_delta": 0.1},
        "model": {"layers": 4, "width": 128},
        "initial_model": PACKAGE,
        "freeze_trunk": True,
    }
    spec = training_spec(job_of(said, checkpoint_policy=CheckpointPolicy(every_steps=7)))
    assert (spec.recipe, spec.epochs, spec.batch_size, spec.learning_rate) == ("language_model", 3, 64, 0.01)
    assert (spec.seed, spec.test_fraction, spec.validation_fraction) == (5, 0.3, 0.2)
    assert (spec.optimizer, spec.momentum, spec.weight_decay, spec.clip_norm) == ("sgd", 0.9, 0.0, 1.0)
    assert (spec.schedule, spec.warmup_steps, spec.decay, spec.decay_epochs) == ("step", 0, 0.5, 2)
    assert (spec.precision, spec.gradient_accumulation_steps) == ("bf16", 4)
    assert (spec.stop_metric, spec.stop_patience_epochs) == ("validation_perplexity", 2)
    assert spec.stop_min_delta == 0.1
    assert spec.model == {"context": 64, "width": 128, "layers": 4, "heads": 4}
    assert (spec.initial_model, spec.freeze_trunk, spec.checkpoint_every_steps) == (PACKAGE, True, 7)


def test_what_is_not_set_has_the_recipes_default() -> None:
    spec = training_spec(job_of({"name": "image_classifier"}))
    assert (spec.validation_fraction, spec.test_fraction, spec.warmup_steps) == (0.1, 0.2, None)
    assert (spec.optimizer, spec.schedule, spec.stop_patience_epochs) == ("adamw", "cosine", 0)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"name": "oracle"}, "job.recipe.name"),
        ({"optimizer": {"algorithm": "ADAM", "momentum": 0.9}}, "job.recipe.optimizer.momentum"),
        ({"early_stopping": {"metric": "loss", "patience_epochs": 1}}, "job.recipe.early_stopping.metric"),
        ({"model": {"depth": 3}}, "job.recipe.model.depth"),
        ({"model": {"features": 0}}, "job.recipe.model.features"),
        ({"model": {"features": 1.5}}, "job.recipe.model.features"),
        ({"model": {"features": "many"}}, "job.recipe.model.features"),
        ({"initial_model": "digits"}, "job.recipe.initial_model"),
        ({"initial_model": "projects/acme/models/m/versions/1"}, "job.recipe.initial_model"),
        ({"freeze_trunk": True}, "job.recipe.freeze_trunk"),
    ],
)
def test_a_wrong_setting_is_named_by_its_place_in_the_job(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        job_of({"name": "image_classifier", **said})
    assert list(caught.value.fields) == [field]
