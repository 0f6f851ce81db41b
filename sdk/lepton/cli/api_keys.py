"""`lepton api-keys`."""

from typing import Annotated

import typer

from lepton.cli.command import command
from lepton.cli.output import Form, as_dict
from lepton.cli.shell import Shell

app = typer.Typer(name="api-keys", help="Create the keys that programs sign in with.", no_args_is_help=True)


@command(app, "create")
async def create(
    shell: Shell,
    service_account: Annotated[str, typer.Argument(help="The service account's id.")],
    api_key_id: Annotated[str, typer.Argument(help="The key's id.")] = "default",
) -> int | None:
    """Create an API key and print its secret, which cannot be read again.

    lepton api-keys create robot > key.txt && lepton login --api-key --password-file key.txt
    """
    async with shell.client() as client:
        key = await client.api_keys.create(service_account, api_key_id)
    if shell.wishes.output in (Form.JSON, Form.YAML):
        shell.printer.document(as_dict(key))
        return None
    shell.note(f"{key.name}; its secret is shown only now:")
    shell.printer.text(key.name if shell.wishes.output is Form.NAME else key.secret)
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
