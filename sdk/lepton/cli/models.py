"""`lepton models`."""

from typing import Annotated

import typer

from lepton.cli.columns import MODELS, VERSIONS
from lepton.cli.command import command
from lepton.cli.shell import Shell
from lepton.errors import FailedPrecondition

app = typer.Typer(name="models", help="Register models and their versions, move aliases.", no_args_is_help=True)
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id or name.")]


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the project's models."""
    async with shell.client() as client:
        shell.printer.many(await client.models.list().all(), MODELS)
    return None


@command(app, "get")
async def get(shell: Shell, model: ModelId) -> int | None:
    """Show a model."""
    async with shell.client() as client:
        shell.printer.one(await client.models.get(model), MODELS)
    return None


@command(app, "register")
async def register(
    shell: Shell,
    model: ModelId,
    job: Annotated[str, typer.Option("--job", help="The job whose result to register.")] = "",
    package: Annotated[str, typer.Option("--package", help="Or a package, by its digest.")] = "",
) -> int | None:
    """Register what a job produced as the model's next version; the model is created if it is new.

    lepton models register digits --job digits
    """
    if bool(job) == bool(package):
        raise typer.BadParameter("give either --job JOB or --package DIGEST")
    async with shell.client() as client:
        if job:
            trained = await client.jobs.get(job)
            package = trained.package
            if not package:
                raise FailedPrecondition("JOB_WITHOUT_PACKAGE", job=trained.name)
        shell.printer.one(await client.models.register(model, package), VERSIONS)
    return None


@command(app, "versions")
async def versions(shell: Shell, model: ModelId) -> int | None:
    """List a model's versions, newest first."""
    async with shell.client() as client:
        shell.printer.many(await client.models.versions(model).all(), VERSIONS)
    return None


@command(app, "alias")
async def alias(
    shell: Shell,
    model: ModelId,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="For example `champion`.")],
    version: Annotated[int, typer.Argument(min=0, help="The version's number; 0 removes the alias.")],
    etag: Annotated[str, typer.Option(help="Only if the model's etag is still this.")] = "",
) -> int | None:
    """Point an alias at a version.

    lepton models alias digits champion 3 && lepton deploy digits:champion
    """
    async with shell.client() as client:
        shell.printer.one(await client.models.set_alias(model, name, version, etag=etag), MODELS)
    return None
