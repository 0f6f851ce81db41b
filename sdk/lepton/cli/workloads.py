"""`lepton workloads`."""

from typing import Annotated

import typer

from lepton.cli.columns import WORKLOADS
from lepton.cli.command import command
from lepton.cli.shell import Shell

app = typer.Typer(name="workloads", help="Show everything that runs on the fleet.", no_args_is_help=True)


@command(app, "list")
async def list_(
    shell: Shell,
    everywhere: Annotated[bool, typer.Option("--all-projects", "-A", help="Of all projects.")] = False,
) -> int | None:
    """List workloads: training, serving and conversions alike."""
    async with shell.client() as client:
        found = await client.workloads.list(project="-" if everywhere else None).all()
    shell.printer.many(found, WORKLOADS)
    return None


@command(app, "get")
async def get(shell: Shell, workload: Annotated[str, typer.Argument(help="Its id or name.")]) -> int | None:
    """Show a workload; `-o yaml` shows where each of its slices runs."""
    async with shell.client() as client:
        shell.printer.one(await client.workloads.get(workload), WORKLOADS)
    return None
