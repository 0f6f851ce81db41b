"""`lepton pools`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from lepton.cli.columns import POOLS
from lepton.cli.command import command
from lepton.cli.shell import Shell
from lepton.scheduler.v1.pool_pb2 import Pool

app = typer.Typer(name="pools", help="List and create pools of nodes.", no_args_is_help=True)


class PoolClass(StrEnum):
    """What kind of work a pool is for."""

    GENERAL = "general"
    PERFORMANCE = "performance"
    STORAGE = "storage"
    EDGE = "edge"
    SPOT = "spot"


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List pools, with what they have and what of it is in use."""
    async with shell.client() as client:
        shell.printer.many(await client.pools.list().all(), POOLS)
    return None


@command(app, "create")
async def create(
    shell: Shell,
    pool_id: Annotated[str, typer.Argument(help="The pool's id.")],
    kind: Annotated[PoolClass, typer.Option("--class", help="What kind of work it is for.")] = PoolClass.GENERAL,
    display_name: Annotated[str, typer.Option(help="What people call it.")] = "",
) -> int | None:
    """Create a pool.

    lepton pools create fast --class performance
    """
    fields: dict[str, Any] = {"class": Pool.Class.Value(kind.name), "display_name": display_name}
    async with shell.client() as client:
        shell.printer.one(await client.pools.create(pool_id, Pool(**fields)), POOLS)
    return None


@command(app, "delete")
async def delete(shell: Shell, pool: Annotated[str, typer.Argument(help="The pool's id.")]) -> int | None:
    """Delete a pool that has no nodes any more."""
    async with shell.client() as client:
        await client.pools.delete(pool)
    shell.note(f"deleted {pool}")
    return None
