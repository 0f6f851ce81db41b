"""`lepton api-keys`."""

from typing import Annotated

import typer

from lepton.cli.columns import API_KEYS
from lepton.cli.command import command
from lepton.cli.output import Form, as_dict
from lepton.cli.shell import Shell

app = typer.Typer(name="api-keys", help="Create the keys that programs sign in with.", no_args_is_help=True)


@command(app, "create")
async def create(
    shell: Shell,
    service_account: Annotated[str, typer.Argument(help="The service account's id.")],
    api_key_id: Annotated[str, typer.Argument(help="The key's id.")] = "default",
    permission: Annotated[
        list[str] | None, typer.Option(help="Good for this permission only (jobs.create, jobs.*); may be repeated.")
    ] = None,
    resource: Annotated[str, typer.Option("--on", help="Good only on this resource, by its whole name.")] = "",
) -> int | None:
    """Create an API key and print its secret, which cannot be read again.

    lepton api-keys create robot > key.txt && lepton login --api-key --password-file key.txt
    """
    async with shell.client() as client:
        key = await client.api_keys.create(service_account, api_key_id, permissions=permission or (), resource=resource)
    if shell.wishes.output in (Form.JSON, Form.YAML):
        shell.printer.document(as_dict(key))
        return None
    shell.note(f"{key.name}; its secret is shown only now:")
    shell.printer.text(key.name if shell.wishes.output is Form.NAME else key.secret)
    return None


@command(app, "list")
async def list_(
    shell: Shell,
    service_account: Annotated[str, typer.Argument(help="The service account's id; default: all of the project.")] = "",
    prefix: Annotated[str, typer.Option(help="Keys whose secret begins so: finds a leaked one.")] = "",
) -> int | None:
    """List API keys, without their secrets.

    lepton api-keys list --prefix lpk_0f3c
    """
    async with shell.client() as client:
        shell.printer.many(await client.api_keys.list(service_account, prefix=prefix).all(), API_KEYS)
    return None


@command(app, "delete")
async def delete(
    shell: Shell,
    service_account: Annotated[str, typer.Argument(help="The service account's id.")],
    api_key_id: Annotated[str, typer.Argument(help="The key's id.")] = "default",
) -> int | None:
    """Delete an API key: it no longer signs in."""
    async with shell.client() as client:
        account = (await client.service_accounts.get(service_account)).name
        await client.api_keys.delete(f"{account}/apiKeys/{api_key_id}")
    shell.note(f"deleted {account}/apiKeys/{api_key_id}")
    return None
