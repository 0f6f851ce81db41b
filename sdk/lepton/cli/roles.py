"""`lepton roles`."""

from typing import Annotated

import typer

from lepton.cli.columns import ROLES
from lepton.cli.command import command
from lepton.cli.previews import show_preview
from lepton.cli.shell import Shell

app = typer.Typer(name="roles", help="Show the roles, and make roles of your own.", no_args_is_help=True)

_Permissions = Annotated[list[str], typer.Argument(help="Permissions: jobs.create, or jobs.* for every verb.")]


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the built-in roles and the organisation's own."""
    async with shell.client() as client:
        shell.printer.many(await client.access.roles(), ROLES)
    return None


@command(app, "permissions")
async def permissions(shell: Shell) -> int | None:
    """List every permission that there is."""
    async with shell.client() as client:
        for each in await client.access.permissions():
            shell.printer.text(each)
    return None


@command(app, "create")
async def create(
    shell: Shell,
    role_id: Annotated[str, typer.Argument(help="The role's id.")],
    permissions: _Permissions,
    display_name: Annotated[str, typer.Option(help="What people call it.")] = "",
) -> int | None:
    """Create a role; `lepton users grant` gives it.

    lepton roles create submitter jobs.create jobs.get jobs.list
    """
    async with shell.client() as client:
        shell.printer.one(await client.access.create_role(role_id, permissions, display_name=display_name), ROLES)
    return None


@command(app, "update")
async def update(
    shell: Shell,
    role: Annotated[str, typer.Argument(help="The role.")],
    permissions: _Permissions,
    display_name: Annotated[str, typer.Option(help="What people call it.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who gains and loses what; change nothing.")] = False,
) -> int | None:
    """Replace what a role may do, at once, for everybody who holds it."""
    async with shell.client() as client:
        if dry_run:
            show_preview(shell, await client.access.preview_update_role(role, permissions))
            return None
        shell.printer.one(await client.access.update_role(role, permissions, display_name=display_name), ROLES)
    return None


@command(app, "delete")
async def delete(shell: Shell, role: Annotated[str, typer.Argument(help="The role.")]) -> int | None:
    """Delete a role that nobody holds."""
    async with shell.client() as client:
        await client.access.delete_role(role)
    shell.note(f"deleted roles/{role.removeprefix('roles/')}")
    return None
