"""`lepton login`, `logout` and `whoami`."""

from typing import Annotated

import typer

from lepton.cli.command import command
from lepton.cli.output import as_dict
from lepton.cli.shell import Shell, read_secret

app = typer.Typer(no_args_is_help=True)


@command(app, "login")
async def login(
    shell: Shell,
    user: Annotated[str, typer.Option("--user", "-u", help="Sign in as this user, with a password.")] = "",
    api_key: Annotated[bool, typer.Option("--api-key", help="Sign in with a service account's API key.")] = False,
    password_file: Annotated[
        str, typer.Option(help="A file with the password or the key; `-` is standard input.")
    ] = "",
) -> int | None:
    """Sign in with a password or an API key, which is asked for, or read from a file or from standard input.

    lepton login --user alice

    lepton login --api-key --password-file key.txt
    """
    if bool(user) == api_key:
        raise typer.BadParameter("give either --user NAME or --api-key")
    secret = read_secret(password_file, "API key" if api_key else f"Password of {user}")
    # LEPTON_API_KEY would keep what comes of it in memory only.
    async with shell.client(api_key="") as client:
        signed_in = await client.sign_in(user=user, password=secret if user else "", api_key="" if user else secret)
    shell.note(f"signed in as {signed_in.principal}")
    return None


@command(app, "logout")
async def logout(shell: Shell) -> int | None:
    """End the session and forget its tokens."""
    async with shell.client(api_key="") as client:
        await client.sign_out()
    shell.note("signed out")
    return None


@command(app, "whoami")
async def whoami(shell: Shell) -> int | None:
    """Show who is signed in, with which roles where."""
    async with shell.client() as client:
        caller = await client.caller()
    if not shell.printer.is_for_people:
        document = as_dict(caller)
        shell.printer.text(caller.principal) if shell.wishes.output == "name" else shell.printer.document(document)
        return None
    shell.printer.text(caller.principal)
    for grant in caller.grants:
        where = "the whole organisation" if grant.scope == "*" else grant.scope
        shell.printer.text(f"  {grant.role.removeprefix('roles/')} in {where}")
    return None
