"""`lepton service-accounts`."""

from typing import Annotated

import typer

from lepton.cli.columns import SERVICE_ACCOUNTS, WORKLOAD_TRUSTS
from lepton.cli.command import command
from lepton.cli.shell import Shell
from lepton.names import ServiceAccountName

app = typer.Typer(name="service-accounts", help="Create and list the accounts of programs.", no_args_is_help=True)


@command(app, "create")
async def create(
    shell: Shell,
    service_account_id: Annotated[str, typer.Argument(help="The account's id.")],
    display_name: Annotated[str, typer.Option(help="What people call it.")] = "",
) -> int | None:
    """Create a service account; `lepton api-keys create` gives it something to sign in with."""
    async with shell.client() as client:
        account = await client.service_accounts.create(service_account_id, display_name=display_name)
    shell.printer.one(account, SERVICE_ACCOUNTS)
    return None


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the service accounts of the project."""
    async with shell.client() as client:
        shell.printer.many(await client.service_accounts.list().all(), SERVICE_ACCOUNTS)
    return None


@command(app, "trust")
async def trust(
    shell: Shell,
    service_account: Annotated[str, typer.Argument(help="The account's id.")],
    issuer: Annotated[str, typer.Option(help="`iss` of the tokens, exactly; auth's configuration must name it.")],
    subject: Annotated[
        str, typer.Option(help="`sub` of the tokens; * is a part without : and /, ** at the end all that follows.")
    ],
    audience: Annotated[str, typer.Option(help="`aud` of the tokens.")],
    name: Annotated[str, typer.Option(help="The trust's id.")] = "default",
) -> int | None:
    """Let a CI system's or a cluster's ID tokens sign in as the account, so that no key is stored there.

    lepton service-accounts trust robot --issuer https://token.actions.githubusercontent.com
    --subject 'repo:acme/vision:ref:refs/heads/main' --audience lepton

    The workload then runs lepton with LEPTON_SERVICE_ACCOUNT and LEPTON_ID_TOKEN_FILE.
    """
    async with shell.client() as client:
        made = await client.federation.trust(service_account, name, issuer=issuer, subject=subject, audience=audience)
    shell.printer.one(made, WORKLOAD_TRUSTS)
    return None


@command(app, "trusts")
async def trusts(shell: Shell, service_account: Annotated[str, typer.Argument(help="The account's id.")]) -> int | None:
    """List whose ID tokens sign in as the account."""
    async with shell.client() as client:
        shell.printer.many(await client.federation.trusts(service_account).all(), WORKLOAD_TRUSTS)
    return None


@command(app, "untrust")
async def untrust(
    shell: Shell,
    service_account: Annotated[str, typer.Argument(help="The account's id.")],
    name: Annotated[str, typer.Argument(help="The trust's id.")] = "default",
) -> int | None:
    """Take a trust away: those tokens no longer sign in."""
    async with shell.client() as client:
        account = ServiceAccountName(client.project, service_account)
        await client.federation.untrust(f"{account}/workloadTrusts/{name}")
    shell.note(f"{service_account} trusts {name} no longer")
    return None
