"""`lepton projects`."""

from typing import Annotated

import typer

from lepton import profile
from lepton.cli.columns import PROJECTS
from lepton.cli.command import command
from lepton.cli.shell import Shell

app = typer.Typer(name="projects", help="Create, list and choose projects.", no_args_is_help=True)
ProjectId = Annotated[str, typer.Argument(help="The project's id.")]


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
