"""`lepton models update`, `tag`, `stage` and `delete`."""

from enum import StrEnum
from typing import Annotated

import typer

from lepton.cli.columns import MODELS, VERSIONS
from lepton.cli.deploy import parse_model
from lepton.cli.marks import apply_labels
from lepton.cli.shell import Shell
from lepton.client.models import LATEST
from lepton.inference.v1.model_pb2 import Model, ModelVersion

Reference = Annotated[str, typer.Argument(metavar="MODEL[@VERSION|:ALIAS]", help="A version; the latest if not said.")]


class Stage(StrEnum):
    """A version's stage."""

    NONE = "none"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


async def update(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's id or name.")],
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    display_name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, or KEY- takes it away.")] = None,
    protect: Annotated[
        bool | None, typer.Option("--protect/--no-protect", help="Whether it and its versions cannot be deleted.")
    ] = None,
) -> int | None:
    """Change what is said of a model, or protect it from deletion.

    lepton models update digits --description "hand-written digits" --label team=vision --protect
    """
    async with shell.client() as client:
        current = await client.models.get(model)
        wanted = {"description": description, "display_name": display_name, "deletion_protection": protect}
        fields = [name for name, value in wanted.items() if value is not None]
        for name in fields:
            setattr(current, name, wanted[name])
        if label:
            apply_labels(current.labels, label)
            fields.append("labels")
        if not fields:
            raise typer.BadParameter("say what to change: --description, --display-name, --label, --protect")
        shell.printer.one(await client.models.update(current, *fields), MODELS)
    return None


async def tag(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|:ALIAS]", help="A model, or one of its versions.")],
    marks: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-", help="KEY- takes it away.")],
) -> int | None:
    """Set or take away tags of a model or of a version.

    \b
    lepton models tag digits owner=vision
    lepton models tag digits@3 reviewed=yes draft-
    """
    name, version = parse_model(model)
    async with shell.client() as client:
        if version == LATEST and not model.endswith(LATEST):
            found: Model = await client.models.get(name)
            apply_labels(found.tags, marks)
            shell.printer.one(await client.models.update(found, "tags"), MODELS)
            return None
        current: ModelVersion = await client.models.get_version(name, version)
        apply_labels(current.tags, marks)
        shell.printer.one(await client.models.update_version(current, "tags"), VERSIONS)
    return None


async def stage(
    shell: Shell,
    model: Reference,
    stage: Annotated[Stage, typer.Argument(help="none, staging, production or archived.")],
    archive_existing: Annotated[
        bool, typer.Option("--archive-existing", help="Archive the versions that are in that stage now.")
    ] = False,
    etag: Annotated[str, typer.Option(help="Only if the version's etag is still this.")] = "",
) -> int | None:
    """Move a version to a stage. What is deployed does not change by it.

    lepton models stage digits@3 production --archive-existing
    """
    async with shell.client() as client:
        version = await client.models.get_version(*parse_model(model))
        moved = await client.models.set_stage(
            version.name, ModelVersion.Stage.Value(stage.name), archive_existing=archive_existing, etag=etag
        )
        shell.printer.one(moved, VERSIONS)
    return None


async def delete(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="A model with all its versions, or one.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    etag: Annotated[str, typer.Option(help="Only if its etag is still this.")] = "",
) -> int | None:
    """Delete a model with all its versions, or one version, if nobody needs it.

    \b
    lepton models delete digits@2
    lepton models delete digits --yes

    A version that an alias names or a deployment serves stays, and so does a model that is protected.
    """
    name, _, number = model.partition("@")
    async with shell.client() as client:
        what = f"version {number} of {name}" if number else f"{name} with all its versions"
        if not yes and not typer.confirm(f"Delete {what}?", err=True):
            return 1
        if number:
            version = await client.models.get_version(name, number)
            await client.models.delete_version(version.name, etag=etag)
        else:
            await client.models.delete(name, etag=etag)
    shell.note(f"deleted {what}")
    return None
