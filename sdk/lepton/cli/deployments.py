"""`lepton deployments`."""

from typing import Annotated

import typer

from lepton.cli import autoscaling_options as options
from lepton.cli import deployments_rollout, exits
from lepton.cli.columns import DEPLOYMENTS
from lepton.cli.command import command
from lepton.cli.deploy import settle
from lepton.cli.limit_options import limit_lines
from lepton.cli.pipeline_file import PipelineOptions
from lepton.cli.shell import Shell
from lepton.inference.v1.deployment_pb2 import Deployment

app = typer.Typer(name="deployments", help="List, update, scale and delete deployments.", no_args_is_help=True)
app.add_typer(deployments_rollout.updating)
app.add_typer(deployments_rollout.app)
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


@command(app, "show")
async def show(shell: Shell, deployment: DeploymentName) -> int | None:
    """Show a deployment, what is the matter with it, its limits, and how many replicas its load asks for."""
    async with shell.client() as client:
        found = await client.deployments.get(deployment)
    shell.printer.one(found, DEPLOYMENTS)
    if shell.printer.is_for_people:
        for line in told(found):
            shell.printer.text(line)
    return None


def told(deployment: Deployment) -> list[str]:
    """What `show` says below the row: what is the matter, the limits, and how the replicas follow the load."""
    message = [deployment.message] if deployment.message else []
    return [*message, *limit_lines(deployment.limits), *options.scaling_lines(deployment)]


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


@command(app, "autoscale")
async def autoscale(
    shell: Shell,
    deployment: DeploymentName,
    min_replicas: Annotated[int, typer.Option(min=0, max=1000, help="Never fewer; 0 lets it sleep.")] = 0,
    max_replicas: Annotated[int, options.MAX_REPLICAS] = 0,
    target_in_flight: Annotated[float, options.IN_FLIGHT] = 0.0,
    target_requests: Annotated[float, options.REQUESTS] = 0.0,
    target_queue_delay: Annotated[float, options.QUEUE_DELAY] = 0.0,
    target_utilization: Annotated[float, options.UTILIZATION] = 0.0,
    sleep_after: Annotated[float | None, options.SLEEP_AFTER] = None,
    down_after: Annotated[float | None, options.DOWN_AFTER] = None,
    forecast: Annotated[bool, options.FORECAST] = False,
    off: Annotated[bool, typer.Option("--off", help="As many as `scale` says, from now on.")] = False,
) -> int | None:
    """Let the replicas follow the load.

    lepton deployments autoscale digits --min-replicas 0 --max-replicas 4 --target-in-flight 4

    lepton deployments autoscale digits --off
    """
    wish = options.autoscaling(
        min_replicas,
        max_replicas,
        in_flight=target_in_flight,
        requests=target_requests,
        queue_delay_ms=target_queue_delay,
        utilization=target_utilization,
        sleep_after_s=sleep_after,
        down_after_s=down_after,
        forecast=forecast,
    )
    if off == (wish is not None):
        raise typer.BadParameter("give --max-replicas N, or --off")
    async with shell.client() as client:
        changed = await client.deployments.autoscale(deployment, wish)
        shell.printer.one(changed, DEPLOYMENTS)
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


@command(app, "around")
async def around(
    shell: Shell,
    deployment: DeploymentName,
    clear: Annotated[bool, typer.Option("--clear", help="Serve the model alone.")] = False,
    *,
    wished: PipelineOptions,
) -> int | None:
    """Change what happens before and after the model; the new revision takes over as any other does.

    lepton deployments around loans --cost-matrix costs.csv --abstain-cost 5
    """
    async with shell.client() as client:
        changed = await client.deployments.get(deployment)
        model, number = changed.model_version.split("/versions/")
        pipeline = None if clear else wished.read(await client.models.get_version(model, number))
        if (pipeline is None) is not clear:
            raise typer.BadParameter("give --pipeline, --cost-matrix, or --clear alone")
        changed.ClearField("pipeline")
        if pipeline is not None:
            changed.pipeline.CopyFrom(pipeline)
        shell.printer.one(await client.deployments.update(changed, "pipeline"), DEPLOYMENTS)
    return None
