"""`lepton users`."""

from typing import Annotated

import typer

from lepton.auth.v1.access_service_pb2 import PreviewAccessChangeResponse
from lepton.cli.columns import ROLE_BINDINGS, USER_IDENTITIES, USERS
from lepton.cli.command import command
from lepton.cli.condition_options import ConditionOptions
from lepton.cli.previews import show_preview
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


@command(app, "link")
async def link(
    shell: Shell,
    user: Annotated[str, typer.Argument(help="The user.")],
    provider: Annotated[str, typer.Option(help="The identity provider, by its name in auth's configuration.")],
    subject: Annotated[str, typer.Option(help="Who they are there: the `sub` of their ID tokens.")],
) -> int | None:
    """Let a person at an identity provider sign in as a user, with `lepton login --oidc`.

    lepton users link alice --provider corp --subject 00u1a2b3c
    """
    async with shell.client() as client:
        shell.printer.one(await client.federation.link(user, provider=provider, subject=subject), USER_IDENTITIES)
    return None


@command(app, "identities")
async def identities(shell: Shell, user: Annotated[str, typer.Argument(help="The user.")]) -> int | None:
    """List who a user is at which identity providers."""
    async with shell.client() as client:
        shell.printer.many(await client.federation.identities(user).all(), USER_IDENTITIES)
    return None


@command(app, "unlink")
async def unlink(
    shell: Shell, identity: Annotated[str, typer.Argument(help="users/NAME/identities/ID, as `identities` shows it.")]
) -> int | None:
    """Take a link away, with the roles that it gave, and sign the user out everywhere."""
    async with shell.client() as client:
        await client.federation.unlink(identity)
    shell.note(f"unlinked {identity}")
    return None


@command(app, "grant")
async def grant(
    shell: Shell,
    role: Annotated[str, typer.Argument(help="viewer, developer, operator, admin, or a role of your own.")],
    members: Annotated[list[str], typer.Argument(help="Principals: users/NAME or projects/P/serviceAccounts/NAME.")],
    conditions: ConditionOptions,
    name: Annotated[str, typer.Option(help="The binding's id; default: made of the role and the first member.")] = "",
    organisation: Annotated[bool, typer.Option("--organisation", help="In the whole organisation.")] = False,
    resource: Annotated[str, typer.Option("--on", help="Only on this resource, by its whole name.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who would gain what; change nothing.")] = False,
) -> int | None:
    """Grant a role to principals, in the project.

    lepton users grant developer users/alice --project acme
    lepton users grant developer users/bob --pool a --max-priority 5 --hours "Mon-Fri 08:00-18:00 Europe/Berlin"
    """
    binding_id = name or f"{role.removeprefix('roles/')}-{members[0].rpartition('/')[2]}"
    async with shell.client() as client:
        do = client.role_bindings.preview if dry_run else client.role_bindings.create
        made = await do(
            binding_id,
            role,
            members,
            project="*" if organisation else None,
            resource=resource,
            condition=conditions.condition(),
        )
    if isinstance(made, PreviewAccessChangeResponse):
        show_preview(shell, made)
    else:
        shell.printer.one(made, ROLE_BINDINGS)
    return None


@command(app, "grants")
async def grants(
    shell: Shell,
    organisation: Annotated[bool, typer.Option("--organisation", help="Those of the whole organisation.")] = False,
) -> int | None:
    """List the grants of the project, with what they depend on."""
    async with shell.client() as client:
        listed = await client.role_bindings.list(project="*" if organisation else None).all()
    shell.printer.many(listed, ROLE_BINDINGS)
    return None


@command(app, "ungrant")
async def ungrant(
    shell: Shell,
    binding: Annotated[str, typer.Argument(help="The grant's whole name, as `grants -o wide` shows it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who would lose what; change nothing.")] = False,
) -> int | None:
    """Take a grant back, at once; open streams that hang on it end.

    lepton users ungrant projects/acme/roleBindings/developer-alice --dry-run
    """
    async with shell.client() as client:
        if dry_run:
            show_preview(shell, await client.role_bindings.preview_delete(binding))
            return None
        await client.role_bindings.delete(binding)
    shell.note(f"took back {binding}")
    return None
