"""`lepton limits`."""

from typing import Annotated

import typer

from lepton.cli.columns import PRINCIPAL_LIMITS
from lepton.cli.command import command
from lepton.cli.shell import Shell

app = typer.Typer(name="limits", help="Limit what principals may use.", no_args_is_help=True)

_Limit = Annotated[str, typer.Argument(help="The limit's id.")]
_Members = Annotated[list[str], typer.Argument(help="users/NAME, a service account, or '*': whom no other names.")]
_Rate = Annotated[float | None, typer.Option(min=0.1, help="Calls a second to each process of a service.")]
_Unfinished = Annotated[
    int | None, typer.Option(min=0, help="Jobs that have not ended; as many deployments, workloads, and so on.")
]
_Devices = Annotated[float | None, typer.Option(min=0, help="Devices that those of one kind ask for at their largest.")]


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the limits."""
    async with shell.client() as client:
        shell.printer.many(await client.limits.list().all(), PRINCIPAL_LIMITS)
    return None


@command(app, "create")
async def create(
    shell: Shell,
    limit: _Limit,
    members: _Members,
    requests_per_s: _Rate = None,
    max_unfinished: _Unfinished = None,
    max_devices: _Devices = None,
) -> int | None:
    """Limit each of some principals, at once; of several limits that name one, the least counts.

    lepton limits create students users/alice users/bob --max-unfinished 3 --max-devices 4
    """
    async with shell.client() as client:
        made = await client.limits.create(
            limit,
            members,
            requests_per_s=requests_per_s,
            max_unfinished=max_unfinished,
            max_device_milli=_milli(max_devices),
        )
    shell.printer.one(made, PRINCIPAL_LIMITS)
    return None


@command(app, "update")
async def update(
    shell: Shell,
    limit: _Limit,
    members: _Members,
    requests_per_s: _Rate = None,
    max_unfinished: _Unfinished = None,
    max_devices: _Devices = None,
) -> int | None:
    """Replace a limit's members and amounts; what exists already stays, and what is not given is not limited."""
    async with shell.client() as client:
        changed = await client.limits.update(
            limit,
            members,
            requests_per_s=requests_per_s,
            max_unfinished=max_unfinished,
            max_device_milli=_milli(max_devices),
        )
    shell.printer.one(changed, PRINCIPAL_LIMITS)
    return None


@command(app, "delete")
async def delete(shell: Shell, limit: _Limit) -> int | None:
    """Take a limit away."""
    async with shell.client() as client:
        await client.limits.delete(limit)
    shell.note(f"deleted principalLimits/{limit.removeprefix('principalLimits/')}")
    return None


def _milli(devices: float | None) -> int | None:
    return None if devices is None else round(devices * 1000)
