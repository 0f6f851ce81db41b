"""`lepton deployments`."""

from typing import Annotated

import typer

from lepton.cli import exits
from lepton.cli.columns import DEPLOYMENTS
from lepton.cli.command import command
from lepton.cli.deploy import settle
from lepton.cli.shell import Shell
from lepton.inference.v1.deployment_pb2 import Deployment

app = typer.Typer(name="deployments", help="List, scale and delete deployments.", no_args_is_help=True)
DeploymentName = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its id or name.")]


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the project's deployments."""
    async with shell.client() as client:
        shell.printer.many(await client.deployments.list().all(), DEPLOYMENTS)
    return None


@command(app, "get")
async def get(shell: Shell, deployment: DeploymentName) -> int | None:
    """Show a deployment; `-o yaml` shows each replica."""
    async with shell.client() as client:
        shell.printer.one(await client.deployments.get(deployment), DEPLOYMENTS)
    return None


@command(app, "wait")
async def wait(
    shell: Shell,
    deployment: DeploymentName,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds to wait; 0 = for ever.")] = 300.0,
) -> int | None:
    """Wait until every replica answers; exits with 1 when it failed."""
    async with shell.client() as client:
        settled = await settle(shell, client, deployment, timeout)
    shell.printer.one(settled, DEPLOYMENTS)
    return exits.OK if settled.state == Deployment.READY else exits.FAILED


@command(app, "scale")
async def scale(
    shell: Shell,
    deployment: DeploymentName,
    replicas: Annotated[int, typer.Option("--replicas", "-r", min=1, max=1000, help="How many servers.")],
    min_replicas: Annotated[
        int | None, typer.Option(min=0, max=1000, help="The fewest that will do when others need room; 0 = all.")
    ] = None,
) -> int | None:
    """Change the number of replicas.

    lepton deployments scale digits --replicas 4 --min-replicas 1
    """
    async with shell.client() as client:
        scaled = await client.deployments.scale(deployment, replicas, min_replicas=min_replicas)
        shell.printer.one(scaled, DEPLOYMENTS)
    return None


@command(app, "delete")
async def delete(
    shell: Shell,
    deployment: DeploymentName,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is gone.")] = False,
) -> int | None:
    """Take a deployment out of the gateway and stop its replicas."""
    async with shell.client() as client:
        await client.deployments.delete(deployment)
        if wait:
            await client.deployments.wait_deleted(deployment, timeout_s=300.0)
    shell.note(f"{'deleted' if wait else 'deleting'} {deployment}")
    return None
