"""The options of a recipe: how long and how it is trained, how its data is divided, and what its model is like."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from lepton.recipes import RecipeInfo
from lepton.trainer.v1.job_pb2 import Job, Optimizer, Recipe, Schedule

_TRAINING, _MODEL, _DATA, _KEEPING = "How it is trained", "Its model", "How the data is divided", "Checkpoints"


class OptimizerName(StrEnum):
    """How the weights are changed."""

    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"


class ScheduleName(StrEnum):
    """How the step size changes over the run."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    STEP = "step"


class PrecisionName(StrEnum):
    """The number format of the passes."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOptions:
    """What `lepton train` says beside the data and the workers; 0 and empty mean the recipe's default."""

    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training data.", rich_help_panel=_TRAINING)] = 0
    batch_size: Annotated[
        int, typer.Option(min=0, help="Samples a step over all ranks.", rich_help_panel=_TRAINING)
    ] = 0
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Step size.", rich_help_panel=_TRAINING)] = 0.0
    optimizer: Annotated[
        OptimizerName | None, typer.Option(help="How weights are changed.", rich_help_panel=_TRAINING)
    ] = None
    momentum: Annotated[float, typer.Option(min=0.0, max=0.9999, help="Of sgd.", rich_help_panel=_TRAINING)] = 0.0
    weight_decay: Annotated[
        float | None, typer.Option(min=0.0, help="How much weights shrink.", rich_help_panel=_TRAINING)
    ] = None
    clip_norm: Annotated[
        float, typer.Option(min=0.0, help="The gradient's norm is cut to this.", rich_help_panel=_TRAINING)
    ] = 0.0
    schedule: Annotated[
        ScheduleName | None, typer.Option(help="How the step size changes.", rich_help_panel=_TRAINING)
    ] = None
    warmup_steps: Annotated[
        int | None, typer.Option(min=0, help="Steps in which it rises; default: a tenth.", rich_help_panel=_TRAINING)
    ] = None
    decay: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of step: the factor.", rich_help_panel=_TRAINING)] = 0
    decay_epochs: Annotated[
        int, typer.Option(min=0, help="Of step: epochs between two.", rich_help_panel=_TRAINING)
    ] = 0
    precision: Annotated[PrecisionName | None, typer.Option(help="The number format.", rich_help_panel=_TRAINING)] = (
        None
    )
    accumulate: Annotated[
        int, typer.Option(min=0, help="Parts that a rank's share of a batch is cut into.", rich_help_panel=_TRAINING)
    ] = 0
    stop_after: Annotated[
        int, typer.Option(min=0, help="End after so many epochs without a better one.", rich_help_panel=_TRAINING)
    ] = 0
    stop_metric: Annotated[
        str, typer.Option(help="Better by this; default: validation_loss.", rich_help_panel=_TRAINING)
    ] = ""
    stop_min_delta: Annotated[
        float, typer.Option(min=0.0, help="What counts as better.", rich_help_panel=_TRAINING)
    ] = 0.0
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.", rich_help_panel=_TRAINING)] = 0
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of the recipe's model; see below.", rich_help_panel=_MODEL),
    ] = None
    initial_model: Annotated[
        str,
        typer.Option(help="MODEL@VERSION, or a package's digest, to begin with.", rich_help_panel=_MODEL),
    ] = ""
    freeze_trunk: Annotated[
        bool,
        typer.Option("--freeze-trunk", help="Train only the last layer of --initial-model.", rich_help_panel=_MODEL),
    ] = False
    test_fraction: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.9, help="Held out to measure by, if no test set is given; 0 = 0.2.", rich_help_panel=_DATA
        ),
    ] = 0.0
    validation_fraction: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Of the rest, to choose by; 0 = 0.1.", rich_help_panel=_DATA)
    ] = 0.0
    checkpoint_every: Annotated[
        int, typer.Option(min=0, help="Steps between two; 0 = once an epoch.", rich_help_panel=_KEEPING)
    ] = 0
    keep_latest: Annotated[
        int, typer.Option(min=0, help="How many of the newest are kept; 0 = 3.", rich_help_panel=_KEEPING)
    ] = 0
    keep_best: Annotated[
        int, typer.Option(min=0, help="How many of the best are kept beside them.", rich_help_panel=_KEEPING)
    ] = 0
    best_by: Annotated[
        str, typer.Option(help="METRIC, or -METRIC if smaller is better; default: -loss.", rich_help_panel=_KEEPING)
    ] = ""

    def fill(self, job: Job, info: RecipeInfo) -> None:
        """Writes them into a job of a recipe; InvalidArgument naming a setting of the model that is wrong."""
        job.recipe.CopyFrom(
            Recipe(
                name=info.name,
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                seed=self.seed,
                test_fraction=self.test_fraction,
                validation_fraction=self.validation_fraction,
                gradient_accumulation_steps=self.accumulate,
                freeze_trunk=self.freeze_trunk,
            )
        )
        if self.precision:
            job.recipe.precision = Recipe.Precision.Value(self.precision.upper())
        if (optimizer := self._optimizer()) != Optimizer():
            job.recipe.optimizer.CopyFrom(optimizer)
        if (schedule := self._schedule()) != Schedule():
            job.recipe.schedule.CopyFrom(schedule)
        if self.stop_after:
            stopping = job.recipe.early_stopping
            stopping.patience_epochs, stopping.metric = self.stop_after, self.stop_metric
            stopping.min_delta = self.stop_min_delta
        elif self.stop_metric or self.stop_min_delta:
            raise typer.BadParameter("--stop-metric and --stop-min-delta belong to --stop-after; give that too")
        if settings := model_settings(self.settings or ()):
            info.complete(settings, "--set ")
            job.recipe.model.update(settings)
        self._fill_policy(job)

    def _optimizer(self) -> Optimizer:
        made = Optimizer(momentum=self.momentum, clip_norm=self.clip_norm, weight_decay=self.weight_decay)
        if self.optimizer:
            made.algorithm = Optimizer.Algorithm.Value(self.optimizer.upper())
        return made

    def _schedule(self) -> Schedule:
        made = Schedule(warmup_steps=self.warmup_steps, decay=self.decay, decay_epochs=self.decay_epochs)
        if self.schedule:
            made.shape = Schedule.Shape.Value(self.schedule.upper())
        return made

    def _fill_policy(self, job: Job) -> None:
        if not (self.checkpoint_every or self.keep_latest or self.keep_best or self.best_by):
            return
        policy = job.checkpoint_policy
        policy.every_steps, policy.keep_latest = self.checkpoint_every, self.keep_latest
        policy.keep_best, policy.metric = self.keep_best, self.best_by.removeprefix("-")
        policy.maximize = bool(self.best_by) and not self.best_by.startswith("-")


def model_settings(pairs: Sequence[str]) -> dict[str, float]:
    """Settings as people write them: NAME=NUMBER."""
    made = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        try:
            made[name.strip()] = float(value)
        except ValueError:
            sign = ""
        if not sign or not name:
            raise typer.BadParameter(f"{pair} in --set: write NAME=NUMBER, for example layers=4")
    return made
