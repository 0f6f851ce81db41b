"""`lepton floating-resources`."""

from typing import Annotated

import typer

from lepton.cli.columns import FLOATING_RESOURCES
from lepton.cli.command import command
from lepton.cli.shell import Shell

app = typer.Typer(
    name="floating-resources", help="Licences and other things that lie on no node.", no_args_is_help=True
)
ResourceArgument = Annotated[str, typer.Argument(help="The floating resource's id.")]
CapacityArgument = Annotated[int, typer.Argument(min=0, help="How much there is.")]


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List floating resources, with what of them is in use."""
    async with shell.client() as client:
        shell.printer.many(await client.floating_resources.list().all(), FLOATING_RESOURCES)
    return None


@command(app, "get")
async def get(shell: Shell, resource: ResourceArgument) -> int | None:
    """Show a floating resource."""
    async with shell.client() as client:
        shell.printer.one(await client.floating_resources.get(resource), FLOATING_RESOURCES)
    return None


@command(app, "watch")
async def watch(shell: Shell) -> int | None:
    """Show the floating resources as they are, and then every change of what there is of them, for ever."""
    async with shell.client() as client:
        async for change in client.floating_resources.watch_all():
            if change.is_deleted:
                shell.note(f"deleted {change.resource.name.rpartition('/')[2]}")
            else:
                shell.printer.change(change.resource, FLOATING_RESOURCES)
    return None


@command(app, "create")
async def create(shell: Shell, resource: ResourceArgument, capacity: CapacityArgument) -> int | None:
    """Create a floating resource.

    lepton floating-resources create solver-licences 4
    """
    async with shell.client() as client:
        shell.printer.one(await client.floating_resources.create(resource, capacity), FLOATING_RESOURCES)
    return None


@command(app, "update")
async def update(shell: Shell, resource: ResourceArgument, capacity: CapacityArgument) -> int | None:
    """Change how much there is. What is held beyond it is not taken away."""
    async with shell.client() as client:
        shell.printer.one(await client.floating_resources.update(resource, capacity), FLOATING_RESOURCES)
    return None


@command(app, "delete")
async def delete(shell: Shell, resource: ResourceArgument) -> int | None:
    """Delete a floating resource that no workload asks for any more."""
    async with shell.client() as client:
        await client.floating_resources.delete(resource)
    shell.note(f"deleted {resource}")
    return None
