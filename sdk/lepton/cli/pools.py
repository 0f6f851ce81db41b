"""`lepton pools`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from lepton.cli.columns import POOLS
from lepton.cli.command import command
from lepton.cli.marks import AT_LEAST, apply_labels, rule
from lepton.cli.shell import Shell
from lepton.scheduler.v1.pool_pb2 import Pool

app = typer.Typer(name="pools", help="List, create and change pools of nodes.", no_args_is_help=True)


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


@command(app, "watch")
async def watch(shell: Shell) -> int | None:
    """Show the pools as they are, and then every change of what is set on them, for ever."""
    async with shell.client() as client:
        async for change in client.pools.watch_all():
            if change.is_deleted:
                shell.note(f"deleted {change.resource.name.rpartition('/')[2]}")
            else:
                shell.printer.change(change.resource, POOLS)
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


@command(app, "update")
async def update(
    shell: Shell,
    pool: Annotated[str, typer.Argument(help="The pool's id.")],
    kind: Annotated[PoolClass | None, typer.Option("--class", help="What kind of work it is for.")] = None,
    display_name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE, or KEY- takes it away.")] = None,
    match: Annotated[list[str] | None, typer.Option(help="KEY=VALUE that nodes without a pool must have.")] = None,
    at_least: Annotated[list[str] | None, typer.Option(help=f"What they must have: {AT_LEAST}.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="The models of their devices that count.")] = None,
    precedence: Annotated[int, typer.Option(help="Where several rules hold, the largest wins.")] = 0,
    no_rule: Annotated[bool, typer.Option("--no-rule", help="Only nodes that name the pool join it.")] = False,
) -> int | None:
    """Change a pool. --match, --at-least, --model and --precedence make its membership rule, in place of any other.

    lepton pools update fast --class performance --match tier=fast --at-least devices=8 --precedence 10
    """
    has_rule = bool(match or at_least or model or precedence)
    if has_rule and no_rule:
        raise typer.BadParameter("--no-rule goes with no other part of a rule")
    async with shell.client() as client:
        current = await client.pools.get(pool)
        fields = list[str]()
        if kind is not None:
            setattr(current, "class", Pool.Class.Value(kind.name))
            fields.append("class")
        if display_name is not None:
            current.display_name = display_name
            fields.append("display_name")
        if labels:
            apply_labels(current.labels, labels)
            fields.append("labels")
        if has_rule or no_rule:
            current.ClearField("membership")
            if has_rule:
                current.membership.CopyFrom(rule(match or (), at_least or (), model or (), precedence))
            fields.append("membership")
        if not fields:
            raise typer.BadParameter("nothing is to be changed; `lepton pools update --help` shows what can be")
        shell.printer.one(await client.pools.update(current, fields), POOLS)
    return None


@command(app, "delete")
async def delete(shell: Shell, pool: Annotated[str, typer.Argument(help="The pool's id.")]) -> int | None:
    """Delete a pool that has no nodes any more."""
    async with shell.client() as client:
        await client.pools.delete(pool)
    shell.note(f"deleted {pool}")
    return None
