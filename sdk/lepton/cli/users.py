"""`lepton users`."""

from typing import Annotated

import typer

from lepton.cli.columns import ROLE_BINDINGS, USERS
from lepton.cli.command import command
from lepton.cli.shell import Shell, read_secret

app = typer.Typer(name="users", help="Create and list users, grant them roles.", no_args_is_help=True)


@command(app, "create")
async def create(
    shell: Shell,
    user_id: Annotated[str, typer.Argument(help="The user's id.")],
    display_name: Annotated[str, typer.Option(help="What people call them.")] = "",
    password_file: Annotated[str, typer.Option(help="A file with the first password; `-` is standard input.")] = "",
) -> int | None:
    """Create a user; the first password (12 bytes or more) is asked for, or read from a file or standard input."""
    password = read_secret(password_file, f"First password of {user_id}")
    async with shell.client() as client:
        shell.printer.one(await client.users.create(user_id, password, display_name=display_name), USERS)
    return None


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List users."""
    async with shell.client() as client:
        shell.printer.many(await client.users.list().all(), USERS)
    return None


@command(app, "disable")
async def disable(shell: Shell, user: Annotated[str, typer.Argument(help="The user.")]) -> int | None:
    """Sign a user out everywhere, and let them sign in no more."""
    async with shell.client() as client:
        shell.printer.one(await client.users.set_disabled(user, disabled=True), USERS)
    return None


@command(app, "enable")
async def enable(shell: Shell, user: Annotated[str, typer.Argument(help="The user.")]) -> int | None:
    """Let a disabled user sign in again."""
    async with shell.client() as client:
        shell.printer.one(await client.users.set_disabled(user, disabled=False), USERS)
    return None


@command(app, "grant")
async def grant(
    shell: Shell,
    role: Annotated[str, typer.Argument(help="viewer, developer, operator, admin, or a role of your own.")],
    members: Annotated[list[str], typer.Argument(help="Principals: users/NAME or projects/P/serviceAccounts/NAME.")],
    name: Annotated[str, typer.Option(help="The binding's id; default: made of the role and the first member.")] = "",
    organisation: Annotated[bool, typer.Option("--organisation", help="In the whole organisation.")] = False,
    resource: Annotated[str, typer.Option("--on", help="Only on this resource, by its whole name.")] = "",
) -> int | None:
    """Grant a role to principals, in the project.

    lepton users grant developer users/alice --project acme
    """
    binding_id = name or f"{role.removeprefix('roles/')}-{members[0].rpartition('/')[2]}"
    async with shell.client() as client:
        project = "*" if organisation else None
        binding = await client.role_bindings.create(binding_id, role, members, project=project, resource=resource)
    shell.printer.one(binding, ROLE_BINDINGS)
    return None
