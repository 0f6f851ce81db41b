"""`lepton nodes`."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import typer

from lepton.cli.columns import NODES
from lepton.cli.command import command
from lepton.cli.marks import apply_labels, apply_taints
from lepton.cli.output import Form
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.scheduler.v1.node_pb2 import Node

app = typer.Typer(name="nodes", help="List, mark and cordon nodes, and admit new ones.", no_args_is_help=True)
_AGENTS: Final = "spiffe://lepton.local/agent/"
NodeArgument = Annotated[str, typer.Argument(help="POOL/NODE, or the whole name.")]


@command(app, "list")
async def list_(
    shell: Shell, pool: Annotated[str, typer.Option("--pool", help="Only this pool's.")] = "-"
) -> int | None:
    """List the nodes whose agents are connected."""
    async with shell.client() as client:
        shell.printer.many(await client.nodes.list(pool).all(), NODES)
    return None


@command(app, "get")
async def get(shell: Shell, node: NodeArgument) -> int | None:
    """Show a node; `-o wide` shows its labels and taints too."""
    async with shell.client() as client:
        shell.printer.one(await client.nodes.get(node), NODES)
    return None


@command(app, "cordon")
async def cordon(shell: Shell, nodes: Annotated[list[str], typer.Argument(help="POOL/NODE ..")]) -> int | None:
    """Place no new work on nodes; what runs there goes on. It holds until `uncordon`, whatever their agents do."""
    await _each(shell, nodes, lambda client, node: client.nodes.cordon(node))
    return None


@command(app, "uncordon")
async def uncordon(shell: Shell, nodes: Annotated[list[str], typer.Argument(help="POOL/NODE ..")]) -> int | None:
    """Place work on nodes again."""
    await _each(shell, nodes, lambda client, node: client.nodes.uncordon(node))
    return None


@command(app, "label")
async def label(
    shell: Shell, node: NodeArgument, labels: Annotated[list[str], typer.Argument(help="KEY=VALUE, or KEY- ..")]
) -> int | None:
    """Set labels on a node, or take them away. Those that its agent declares stay.

    lepton nodes label general/n1 topology.lepton.dev/rack=r7 old-
    """
    async with shell.client() as client:
        changed = await client.nodes.change(node, lambda it: apply_labels(it.labels, labels), ["labels"])
    for each in labels:
        if each.endswith("-") and each[:-1] in changed.labels:
            shell.note(f"{each[:-1]} stays: the agent declares it; change the agent's settings")
    shell.printer.one(changed, NODES)
    return None


@command(app, "taint")
async def taint(
    shell: Shell,
    node: NodeArgument,
    taints: Annotated[list[str], typer.Argument(help="KEY[=VALUE][:EFFECT], or KEY[:EFFECT]- ..")],
) -> int | None:
    """Keep work away from a node that does not tolerate it, or let it come again.

    lepton nodes taint general/n1 lepton.dev/maintenance:NO_EXECUTE

    lepton nodes taint general/n1 lepton.dev/maintenance-
    """
    async with shell.client() as client:
        changed = await client.nodes.change(node, lambda it: apply_taints(it, taints), ["taints"])
    shell.printer.one(changed, NODES)
    return None


async def _each(shell: Shell, nodes: list[str], change: Callable[[AsyncClient, str], Awaitable[Node]]) -> None:
    async with shell.client() as client:
        shell.printer.many([await change(client, node) for node in nodes], NODES)


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


@command(app, "revoke")
async def revoke(
    shell: Shell,
    node_id: Annotated[str, typer.Argument(help="The id of the node whose agent is not trusted any more.")],
) -> int | None:
    """Refuse the certificate of a node's agent everywhere, within seconds; its open sessions are cut.

    It is not renewed either. `lepton nodes join-token` admits the node anew.

    lepton nodes revoke node-7
    """
    async with shell.client() as client:
        revision = await client.access.revoke(principal=f"{_AGENTS}{node_id}")
    shell.note(f"revoked the certificate of node {node_id}; policy revision {revision}")
    return None
