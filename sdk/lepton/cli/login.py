"""`lepton login`, `logout` and `whoami`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from lepton.cli.command import command
from lepton.cli.output import as_dict
from lepton.cli.shell import LOGIN, Shell, read_secret
from lepton.client import AsyncClient
from lepton.client.credentials import Credentials
from lepton.oidc.sign_in import choose, in_browser, on_device

app = typer.Typer(no_args_is_help=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Federated:
    """How to sign in by the word of somebody else."""

    oidc: Annotated[bool, typer.Option("--oidc", help="Sign in at your identity provider, in a browser.")] = False
    provider: Annotated[str, typer.Option(help="Which identity provider, where there are several.")] = ""
    device: Annotated[bool, typer.Option("--device", help="Sign in on another device, with a code to type.")] = False
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print where to sign in.")] = False
    port: Annotated[int, typer.Option(help="The port that the browser comes back to; 0 is any.", min=0)] = 0
    id_token_file: Annotated[str, typer.Option(help="A file with an ID token; `-` is standard input.")] = ""
    service_account: Annotated[
        str, typer.Option(help="Sign in as this account, which trusts the ID token; the file is read at each renewal.")
    ] = ""

    @property
    def is_wanted(self) -> bool:
        """Whether any of it was given."""
        return self.oidc or self.device or bool(self.id_token_file)


@command(app, "login")
async def login(
    shell: Shell,
    federated: Federated,
    user: Annotated[str, typer.Option("--user", "-u", help="Sign in as this user, with a password.")] = "",
    api_key: Annotated[bool, typer.Option("--api-key", help="Sign in with a service account's API key.")] = False,
    password_file: Annotated[
        str, typer.Option(help="A file with the password or the key; `-` is standard input.")
    ] = "",
) -> int | None:
    """Sign in with a password, with an API key, at an identity provider, or with an ID token from a file.

    lepton login --user alice

    lepton login --oidc

    lepton login --api-key --password-file key.txt

    lepton login --id-token-file /var/run/secrets/lepton/token --service-account robot --project acme
    """
    if (bool(user), api_key, federated.is_wanted).count(True) != 1:
        raise typer.BadParameter("give one of --user NAME, --api-key, --oidc, --device and --id-token-file")
    if federated.service_account and federated.id_token_file in ("", "-"):
        raise typer.BadParameter("--service-account needs --id-token-file FILE, which is read again at each renewal")
    async with shell.client(**LOGIN) as client:
        if federated.is_wanted:
            signed_in = await _federated(shell, client, federated)
        else:
            secret = read_secret(password_file, "API key" if api_key else f"Password of {user}")
            signed_in = await client.sign_in(user=user, password=secret if user else "", api_key="" if user else secret)
    shell.note(f"signed in as {signed_in.principal}")
    return None


async def _federated(shell: Shell, client: AsyncClient, wanted: Federated) -> Credentials:
    if wanted.service_account:
        return await client.sign_in_as_workload(wanted.service_account, wanted.id_token_file)
    if wanted.id_token_file:
        return await client.sign_in_with_id_token(read_secret(wanted.id_token_file, "ID token"))
    provider = choose(await client.federation.providers(), wanted.provider)
    if wanted.device:
        proof = await on_device(provider, shell.note)
    else:
        proof = await in_browser(provider, shell.note, port=wanted.port, opens=not wanted.no_browser)
    return await client.sign_in_with_id_token(proof.id_token, nonce=proof.nonce)


@command(app, "logout")
async def logout(shell: Shell) -> int | None:
    """End the session and forget its tokens."""
    async with shell.client(**LOGIN) as client:
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
