"""`lepton secrets`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from lepton.auth.v1.secret_pb2 import Secret, SecretVersion
from lepton.cli.columns import SECRET_VERSIONS, SECRETS
from lepton.cli.command import command
from lepton.cli.shell import Shell

app = typer.Typer(name="secrets", help="Values that jobs are given and that nobody reads back.", no_args_is_help=True)
_NAME: Final = typer.Argument(metavar="SECRET", help="The secret, by id or name.")
_FILE: Final = typer.Option(
    "--file", "-f", help="The file with the value, taken as it is; `-` or nothing: standard input, or asked for."
)
_MOST: Final = 64 << 10


@command(app, "create")
async def create(
    shell: Shell,
    secret_id: Annotated[str, typer.Argument(help="The secret's id.")],
    file: Annotated[str, _FILE] = "",
    display_name: Annotated[str, typer.Option(help="What people call it.")] = "",
) -> int | None:
    """Create a secret. Its value comes from a file, from standard input, or is asked for; never from an argument.

    lepton secrets create db-password < password.txt

    lepton secrets create tls-key --file key.pem

    lepton run --secret db-password=env:DB_PASSWORD --secret tls-key=file:key.pem train.py

    The job finds DB_PASSWORD in its environment, and key.pem in the folder that LEPTON_SECRETS names, which lies in
    memory. Nobody can read the value back: keep it where it came from. The end of the last line of standard input is
    left out.
    """
    value = await asyncio.to_thread(read_value, file, f"Value of {secret_id}")
    async with shell.client() as client:
        shell.printer.one(await client.secrets.create(secret_id, value, display_name=display_name), SECRETS)
    return None


@command(app, "add-version")
async def add_version(shell: Shell, secret: Annotated[str, _NAME], file: Annotated[str, _FILE] = "") -> int | None:
    """Give a secret a new value. What runs keeps the one it has; what starts, or starts again, gets the new one.

    A job that names a version (--secret db-password@2=env:DB_PASSWORD) stays with that one.
    """
    value = await asyncio.to_thread(read_value, file, f"New value of {secret}")
    async with shell.client() as client:
        shell.printer.one(await client.secrets.add_version(secret, value), SECRETS)
    return None


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the secrets of the project: names, versions and last use."""
    async with shell.client() as client:
        shell.printer.many(await client.secrets.list().all(), SECRETS)
    return None


@command(app, "describe")
async def describe(shell: Shell, secret: Annotated[str, _NAME]) -> int | None:
    """Show the versions of a secret: their states, and when they were made and last used. Never a value."""
    async with shell.client() as client:
        found = await client.secrets.get(secret)
    if not shell.printer.is_for_people:
        shell.printer.one(found, SECRETS)
        return None
    shell.printer.one(found, SECRETS)
    shell.printer.many(versions(found), SECRET_VERSIONS)
    return None


@command(app, "disable")
async def disable(
    shell: Shell,
    secret: Annotated[str, _NAME],
    version: Annotated[int, typer.Option(min=0, help="Only this version.")] = 0,
) -> int | None:
    """Give a secret, or one version, to no job any more. What runs keeps what it has; `enable` takes it back."""
    async with shell.client() as client:
        shell.printer.one(await client.secrets.set_enabled(secret, version, enabled=False), SECRETS)
    return None


@command(app, "enable")
async def enable(
    shell: Shell,
    secret: Annotated[str, _NAME],
    version: Annotated[int, typer.Option(min=0, help="Only this version.")] = 0,
) -> int | None:
    """Give a disabled secret, or one version, to jobs again."""
    async with shell.client() as client:
        shell.printer.one(await client.secrets.set_enabled(secret, version, enabled=True), SECRETS)
    return None


@command(app, "destroy")
async def destroy(
    shell: Shell,
    secret: Annotated[str, _NAME],
    version: Annotated[int, typer.Argument(min=1, help="The version.")],
) -> int | None:
    """Destroy the value of a version for good."""
    async with shell.client() as client:
        shell.printer.one(await client.secrets.destroy_version(secret, version), SECRETS)
    return None


@command(app, "delete")
async def delete(shell: Shell, secret: Annotated[str, _NAME]) -> int | None:
    """Delete a secret with all of its values."""
    async with shell.client() as client:
        await client.secrets.delete(secret)
    shell.note(f"deleted {secret}")
    return None


def versions(secret: Secret) -> list[SecretVersion]:
    """The versions of a secret, newest first."""
    return sorted(secret.versions, key=lambda each: -each.version)


def read_value(file: str, prompt: str) -> bytes:
    """A value from a file, from standard input, or typed where that is a terminal."""
    if file and file != "-":
        try:
            return _checked(Path(file).read_bytes())
        except OSError as error:
            raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from error
    if sys.stdin.isatty():
        typed: str = typer.prompt(prompt, hide_input=True, err=True)
        return _checked(typed.encode())
    return _checked(sys.stdin.buffer.read(_MOST + 2).removesuffix(b"\n").removesuffix(b"\r"))


def _checked(value: bytes) -> bytes:
    if not value:
        raise typer.BadParameter("the value is empty; give it on standard input or with --file")
    if len(value) > _MOST:
        raise typer.BadParameter(f"the value has more than {_MOST} bytes; keep what is larger as an artifact")
    return value
