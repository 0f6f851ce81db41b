"""`lepton models`."""

from typing import Annotated

import typer

from lepton.cli.columns import MODELS, VERSIONS
from lepton.cli.command import command
from lepton.cli.deploy import parse_model
from lepton.cli.model_changes import delete, stage, tag, update
from lepton.cli.model_import import export, import_
from lepton.cli.model_lineage import lineage
from lepton.cli.model_words import described
from lepton.cli.optimize import optimize
from lepton.cli.shell import Shell
from lepton.client.models import EVERY
from lepton.errors import FailedPrecondition

app = typer.Typer(
    name="models", help="Import, register, find, stage and trace models and their versions.", no_args_is_help=True
)
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id or name.")]


@command(app, "list")
async def list_(
    shell: Shell,
    filter: Annotated[str, typer.Option("--filter", "-f", help="Only these (AIP-160); see below.")] = "",  # noqa: A002
) -> int | None:
    """List the project's models, or those that a filter selects.

    lepton models list --filter 'labels.team = vision AND tags.owner:* AND create_time > 2026-01-31'

    Fields: name, display_name, description, labels.KEY, tags.KEY, aliases:ALIAS, latest_version, deletion_protection,
    create_time, update_time. A bare word is looked for in all texts.
    """
    async with shell.client() as client:
        shell.printer.many(await client.models.list(filter=filter).all(), MODELS)
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


@command(app, "show")
async def show(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|:ALIAS]", help="The latest version if not said.")],
) -> int | None:
    """Show a version: what it takes and gives, what it measured, where it comes from, where it stands.

    lepton models show digits:champion
    """
    async with shell.client() as client:
        version = await client.models.get_version(*parse_model(model))
    if not shell.printer.is_for_people:
        shell.printer.one(version, VERSIONS)
        return None
    for line in described(version):
        shell.printer.text(line)
    return None


@command(app, "versions")
async def versions(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Of this model; all models' if not said.")] = EVERY,
    filter: Annotated[str, typer.Option("--filter", "-f", help="Only these (AIP-160); see below.")] = "",  # noqa: A002
) -> int | None:
    """List versions, newest first, or those that a filter selects.

    \b
    lepton models versions digits
    lepton models versions --filter 'stage = PRODUCTION AND metrics.accuracy >= 0.95'
    lepton models versions -f 'ancestry:sha256:4f2a.. AND NOT quarantined = true'

    Fields: name, model, version, description, tags.KEY, stage, metrics.NAME, quarantined, package, forms:FILE,
    size_bytes, create_time, ancestry:SOURCE, lineage.FIELD (job, dataset, checkpoint, recipe, code, parent, teacher,
    optimization, source).
    """
    async with shell.client() as client:
        shell.printer.many(await client.models.versions(model, filter=filter).all(), VERSIONS)
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


command(app, "import")(import_)
command(app, "export")(export)
command(app, "update")(update)
command(app, "tag")(tag)
command(app, "stage")(stage)
command(app, "delete")(delete)
command(app, "lineage")(lineage)
command(app, "optimize")(optimize)
