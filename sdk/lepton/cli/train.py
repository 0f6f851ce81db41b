"""`lepton train`."""

import asyncio
from typing import Annotated

import typer

from lepton.cli.command import command
from lepton.cli.job_options import JobOptions, job_id
from lepton.cli.recipe_options import RecipeOptions
from lepton.cli.shell import Shell
from lepton.cli.submission import attend
from lepton.client import AsyncClient
from lepton.names import ModelName, VersionName
from lepton.recipes import RECIPES, RecipeInfo
from lepton.recipes import recipe as recipe_named
from lepton.trainer.v1.job_pb2 import Job

app = typer.Typer()
_DIGITS = "digits"


async def train(
    shell: Shell,
    recipe: Annotated[str, typer.Argument(help=f"What to train: {', '.join(RECIPES)}.", metavar="RECIPE")],
    data: Annotated[
        str, typer.Option(help="A file, a folder, or digits (scikit-learn's images); see below what a recipe takes.")
    ] = _DIGITS,
    target: Annotated[str, typer.Option(help="Of a table: the column to foretell.")] = "",
    time: Annotated[str, typer.Option(help="Of series: the column of times.")] = "",
    *,
    training: RecipeOptions,
    options: JobOptions,
) -> int | None:
    """Train a model: uploads the data, submits a job, and shows how it goes."""
    info = recipe_named(recipe, "RECIPE")
    job = Job()
    training.fill(job, info)
    options.fill(job)
    content = await asyncio.to_thread(dataset, data, recipe=info, target=target, time=time)
    async with shell.client() as client:
        if training.initial_model:
            job.recipe.initial_model = await package_of(client, training.initial_model)
        artifact = await client.artifacts.upload(content)
        job.dataset = artifact.digest
        submitted = await client.jobs.create(options.name or job_id(recipe), job)
        shell.note(f"submitted {submitted.name}, data {artifact.digest[:19]} ({artifact.size_bytes} bytes)")
        return await attend(shell, client, submitted, options)


def dataset(source: str, *, recipe: RecipeInfo, target: str = "", time: str = "") -> bytes:
    """The canonical bytes of the data that a user names, of the kind that the recipe takes."""
    from lepton import data  # numpy is needed only here

    if source == _DIGITS and recipe.data != data.Dataset.kind:
        raise typer.BadParameter(f"--data: {recipe.name} takes {recipe.takes}")
    return data.to_safetensors(data.read(recipe.data, source, target=target, time=time))


async def package_of(client: AsyncClient, model: str) -> str:
    """The digest of the package that `MODEL`, `MODEL@VERSION`, a version's name or the digest itself stands for."""
    if model.startswith("sha256:"):
        return model
    if "/versions/" in model:
        version = VersionName.parse(model, "--initial-model")
        return (await client.models.get_version(str(version.parent), version.version)).package
    name, _, number = model.partition("@")
    if name.startswith("projects/"):
        ModelName.parse(name, "--initial-model")
    return (await client.models.get_version(name, number or "latest")).package


def _teaching() -> str:
    parts = [
        "Train a model: uploads the data, submits a job, and shows how it goes.",
        "lepton train image_classifier --data digits --workers 4 --name digits",
        "lepton train image_classifier --data mnist/ --workers 4 --epochs 10 --batch-size 32 --wait -o json",
        "lepton train text_classifier --data reviews.csv --stop-after 3",
        "lepton train language_model --data texts/ --set layers=4 --set width=128 --workers 2 --strategy fsdp",
        "lepton train forecaster --data sales.csv --time day --set horizon=7",
        "lepton train risk_model --data loans.csv --target defaulted",
        "lepton train image_classifier --data mine/ --initial-model digits@3 --freeze-trunk",
        "The recipes:",
    ]
    for info in RECIPES.values():
        defaults = info.defaults
        settings = ", ".join(
            f"{name} ({each.about}{'' if each.default is None else f'; {each.default:g}'})"
            for name, each in info.settings.items()
        )
        parts.append(
            f"{info.name}: {info.about}. Takes {info.takes}. By default {defaults.epochs} epochs, batches of "
            f"{defaults.batch_size}, {defaults.optimizer} at {defaults.learning_rate:g}. --set: {settings}."
        )
    parts += [
        "A fifth of the data is held out and measured on (test_accuracy, ...), unless the data comes with a test set; "
        "a tenth of the rest is chosen by (validation_...).",
        "Ctrl-C ends the watching, not the job: `lepton jobs cancel NAME` does that.",
    ]
    return "\n\n".join(parts)


train.__doc__ = _teaching()
command(app, "train")(train)
