"""`lepton service-accounts`."""

from typing import Annotated

import typer

from lepton.cli.columns import SERVICE_ACCOUNTS
from lepton.cli.command import command
from lepton.cli.shell import Shell

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
