"""`lepton projects`."""

from typing import Annotated

import typer

from lepton import profile
from lepton.auth.v1.encryption_service_pb2 import ProjectEncryption
from lepton.cli.columns import PROJECT_KEYS, PROJECTS
from lepton.cli.command import command
from lepton.cli.shell import Shell

app = typer.Typer(name="projects", help="Create, list, choose and end projects, and their keys.", no_args_is_help=True)
ProjectId = Annotated[str, typer.Argument(help="The project's id.")]
Confirmed = Annotated[
    str, typer.Option("--confirm", metavar="PROJECT", help="The project's id once more, instead of being asked for it.")
]


@command(app, "create")
async def create(
    shell: Shell, project_id: ProjectId, display_name: Annotated[str, typer.Option(help="What people call it.")] = ""
) -> int | None:
    """Create a project.

    lepton projects create acme && lepton projects use acme
    """
    async with shell.client() as client:
        shell.printer.one(await client.projects.create(project_id, display_name=display_name), PROJECTS)
    return None


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the projects in which you have a role."""
    async with shell.client() as client:
        shell.printer.many(await client.projects.list().all(), PROJECTS)
    return None


@command(app, "get")
async def get(shell: Shell, project_id: ProjectId) -> int | None:
    """Show a project."""
    async with shell.client() as client:
        shell.printer.one(await client.projects.get(project_id), PROJECTS)
    return None


@command(app, "use")
async def use(shell: Shell, project_id: ProjectId) -> int | None:
    """Make a project the one that commands mean when they name none."""
    async with shell.client() as client:
        found = await client.projects.get(project_id)
    profile.choose_project(found.name.removeprefix("projects/"))
    shell.note(f"commands mean {found.name} from now on")
    return None


@command(app, "keys")
async def keys(shell: Shell, project_id: ProjectId) -> int | None:
    """Show which keys a project's data is sealed with, and what wraps them. No key is ever shown.

    A project that has stored nothing has no keys yet.
    """
    async with shell.client() as client:
        _show(shell, await client.encryption.get(project_id))
    return None


@command(app, "rotate-keys")
async def rotate_keys(shell: Shell, project_id: ProjectId) -> int | None:
    """Make new keys for a project.

    What is stored from now on is sealed with them. Artifacts that are stored already are not written again: in the
    background their data keys are wrapped anew, and then the former key is destroyed. `lepton projects keys` shows it.
    """
    async with shell.client() as client:
        _show(shell, await client.encryption.rotate(project_id))
    return None


@command(app, "shred")
async def shred(shell: Shell, project_id: ProjectId, confirm: Confirmed = "") -> int | None:
    """Destroy the keys of a project, and with them its artifacts, checkpoints, models and secrets. For good.

    The project stays, so that its audit records and bindings can be read; nothing can be stored in it again. Jobs that
    run keep what they hold in memory: cancel them first. Copies of auth's store from before still hold the keys,
    wrapped; to make them useless too, an operator of auth runs `python -m services.auth keyring-add`, then
    `keyring-retire` of the former key.

    lepton projects shred acme --confirm acme
    """
    _confirmed(project_id, confirm, "destroys all its data for good")
    async with shell.client() as client:
        _show(shell, await client.encryption.shred(project_id, confirmation=f"projects/{_id(project_id)}"))
    return None


@command(app, "delete")
async def delete(shell: Shell, project_id: ProjectId, confirm: Confirmed = "") -> int | None:
    """Delete a project with its service accounts, API keys, bindings and the keys of its data. For good.

    Its id is never given again.

    lepton projects delete acme --confirm acme
    """
    _confirmed(project_id, confirm, "deletes it, and destroys all its data, for good")
    async with shell.client() as client:
        await client.projects.delete(project_id)
    shell.note(f"projects/{_id(project_id)} is deleted")
    return None


def _confirmed(project_id: str, given: str, what: str) -> None:
    """Ends the command unless the user has named the project a second time."""
    again = given or typer.prompt(f"This {what}. The project's id, to go on", err=True)
    if _id(again) != _id(project_id):
        raise typer.BadParameter(f"it is not {_id(project_id)}; nothing was done", param_hint="--confirm")


def _show(shell: Shell, found: ProjectEncryption) -> None:
    if not shell.printer.is_for_people:
        shell.printer.one(found, ())
        return
    shell.printer.many(list(found.keys), PROJECT_KEYS)
    shell.note(f"wrapped by {found.provider_key}")
    if found.HasField("shred_time"):
        when = found.shred_time.ToDatetime().isoformat(timespec="seconds")
        shell.note(f"destroyed at {when} UTC: {' '.join(found.destroyed_key_ids) or 'no keys'}")


def _id(project: str) -> str:
    return project.removeprefix("projects/")
