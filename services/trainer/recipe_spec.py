"""What a job's recipe says, as the specification that its ranks read; pure."""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from lepton.artifacts import parse_digest
from lepton.errors import InvalidArgument
from lepton.names import JobName
from lepton.trainer.v1.job_pb2 import Job, Optimizer, Recipe, Schedule
from services.trainer.worker.spec import TrainingSpec

_OPTIMIZERS: Final = {Optimizer.SGD: "sgd", Optimizer.ADAM: "adam", Optimizer.ADAMW: "adamw"}
_SCHEDULES: Final = {
    Schedule.CONSTANT: "constant",
    Schedule.LINEAR: "linear",
    Schedule.COSINE: "cosine",
    Schedule.STEP: "step",
}
_PRECISIONS: Final = {Recipe.FP32: "fp32", Recipe.BF16: "bf16", Recipe.FP16: "fp16"}
_PLACES: Final[Mapping[str, str]] = {
    "dataset": "job.dataset",
    "checkpoint_every_steps": "job.checkpoint_policy.every_steps",
    "recipe": "job.recipe.name",
    "optimizer": "job.recipe.optimizer.algorithm",
    **{name: f"job.recipe.optimizer.{name}" for name in ("momentum", "weight_decay", "clip_norm")},
    "schedule": "job.recipe.schedule.shape",
    **{name: f"job.recipe.schedule.{name}" for name in ("warmup_steps", "decay", "decay_epochs")},
    "stop_metric": "job.recipe.early_stopping.metric",
    "stop_patience_epochs": "job.recipe.early_stopping.patience_epochs",
    "stop_min_delta": "job.recipe.early_stopping.min_delta",
}
"""Where a job has the fields of a specification that are not in its recipe under the same name."""


def training_spec(job: Job) -> TrainingSpec:
    """The specification of a recipe's ranks; what the job leaves open has the recipe's default.

    Raises InvalidArgument naming the job's field that is wrong.
    """
    if not job.dataset:
        raise _invalid("job.dataset", "a recipe needs the digest of a dataset artifact")
    recipe = job.recipe
    if recipe.initial_model:
        _check_initial_model(recipe.initial_model)
    try:
        return TrainingSpec.of(
            project=JobName.parse(job.name).project,
            dataset=job.dataset,
            recipe=recipe.name,
            seed=recipe.seed,
            freeze_trunk=recipe.freeze_trunk,
            model=MessageToDict(recipe.model),
            **_chosen(job),
        )
    except InvalidArgument as error:
        placed = {_PLACES.get(field, f"job.recipe.{field}"): what for field, what in error.fields.items()}
        raise InvalidArgument("INVALID_FIELD", fields=placed) from error


def _chosen(job: Job) -> dict[str, Any]:
    """The settings that the job says; 0, empty and not set say nothing."""
    recipe, optimizer, schedule, stopping = (
        job.recipe,
        job.recipe.optimizer,
        job.recipe.schedule,
        job.recipe.early_stopping,
    )
    said: dict[str, Any] = {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "test_fraction": recipe.test_fraction,
        "validation_fraction": recipe.validation_fraction,
        "optimizer": _OPTIMIZERS.get(optimizer.algorithm),
        "momentum": optimizer.momentum,
        "clip_norm": optimizer.clip_norm,
        "schedule": _SCHEDULES.get(schedule.shape),
        "decay": schedule.decay,
        "decay_epochs": schedule.decay_epochs,
        "precision": _PRECISIONS.get(recipe.precision),
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "stop_metric": stopping.metric,
        "stop_patience_epochs": stopping.patience_epochs,
        "stop_min_delta": stopping.min_delta,
        "initial_model": recipe.initial_model,
        "checkpoint_every_steps": job.checkpoint_policy.every_steps,
    }
    chosen = {name: value for name, value in said.items() if value}
    if optimizer.HasField("weight_decay"):
        chosen["weight_decay"] = optimizer.weight_decay
    if schedule.HasField("warmup_steps"):
        chosen["warmup_steps"] = schedule.warmup_steps
    return chosen


def _check_initial_model(text: str) -> None:
    if text.startswith("projects/"):
        # The registry is the inference service's; the client that submits the job asks it.
        problem = (
            "name the digest of the version's package, as `lepton models get` shows it; `lepton train` looks it up"
        )
        raise _invalid("job.recipe.initial_model", problem)
    parse_digest(text, "job.recipe.initial_model")


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field: problem})
