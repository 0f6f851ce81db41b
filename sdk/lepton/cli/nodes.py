"""`lepton nodes`."""

from typing import Annotated

import typer

from lepton.cli.columns import NODES
from lepton.cli.command import command
from lepton.cli.output import Form
from lepton.cli.shell import Shell

app = typer.Typer(name="nodes", help="List nodes, and admit new ones.", no_args_is_help=True)


@command(app, "list")
async def list_(
    shell: Shell, pool: Annotated[str, typer.Option("--pool", help="Only this pool's.")] = "-"
) -> int | None:
    """List the nodes whose agents are connected."""
    async with shell.client() as client:
        shell.printer.many(await client.nodes.list(pool).all(), NODES)
    return None


@command(app, "get")
async def get(shell: Shell, node: Annotated[str, typer.Argument(help="pools/POOL/nodes/NODE")]) -> int | None:
    """Show a node."""
    async with shell.client() as client:
        shell.printer.one(await client.nodes.get(node), NODES)
    return None


@command(app, "join-token")
async def join_token(
    shell: Shell,
    node_id: Annotated[str, typer.Argument(help="The id of the node to admit.")],
    ttl: Annotated[int, typer.Option(min=1, max=86400, help="Seconds in which it must be used.")] = 600,
) -> int | None:
    """Make a one-time token with which the agent of a new node joins the mesh.

    lepton nodes join-token node-7 > /etc/lepton/join-token
    """
    async with shell.client() as client:
        token = await client.join_tokens.create(f"agent/{node_id}", ttl_s=ttl)
    if shell.wishes.output in (Form.JSON, Form.YAML):
        expires = token.expire_time.ToJsonString()
        shell.printer.document({"token": token.token, "spiffe_path": token.spiffe_path, "expire_time": expires})
    else:
        shell.printer.text(token.token)
    return None
