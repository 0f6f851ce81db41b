"""`lepton deploy`."""

import re
from typing import Annotated, Final

import typer

from lepton.cli import autoscaling_options as options
from lepton.cli import exits
from lepton.cli.cells import state
from lepton.cli.columns import DEPLOYMENTS
from lepton.cli.command import command
from lepton.cli.limit_options import LimitOptions
from lepton.cli.pipeline_file import PipelineOptions
from lepton.cli.serving_options import SERVE, serving
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.client.deployments import SETTLED
from lepton.client.models import LATEST
from lepton.inference.v1.call_limits_pb2 import CallLimits
from lepton.inference.v1.deployment_pb2 import Deployment

app = typer.Typer()
_MODEL: Final = re.compile(r"(?P<model>[^@:]+)(@(?P<version>\d+)|:(?P<alias>[^@:]+))?")


@command(app, "deploy")
async def deploy(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|:ALIAS]", help="What to serve.")],
    replicas: Annotated[int, typer.Option("--replicas", "-r", min=1, max=1000, help="How many servers.")] = 1,
    name: Annotated[str, typer.Option(help="The deployment's id; default: the model's.")] = "",
    min_replicas: Annotated[
        int, typer.Option(min=0, max=1000, help="The fewest that will do when others need room; 0 = all.")
    ] = 0,
    pool: Annotated[list[str] | None, typer.Option(help="A pool it may run in; give several by preference.")] = None,
    queue: Annotated[str, typer.Option(help="The queue it waits in; default: the project's.")] = "",
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Larger goes first.")] = 0,
    max_replicas: Annotated[int, options.MAX_REPLICAS] = 0,
    target_in_flight: Annotated[float, options.IN_FLIGHT] = 0.0,
    target_requests: Annotated[float, options.REQUESTS] = 0.0,
    target_queue_delay: Annotated[float, options.QUEUE_DELAY] = 0.0,
    target_utilization: Annotated[float, options.UTILIZATION] = 0.0,
    sleep_after: Annotated[float | None, options.SLEEP_AFTER] = None,
    down_after: Annotated[float | None, options.DOWN_AFTER] = None,
    forecast: Annotated[bool, options.FORECAST] = False,
    serve: Annotated[list[str] | None, SERVE] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every replica answers.")] = False,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds to wait; 0 = for ever.")] = 300.0,
    *,
    around: PipelineOptions,
    limits: LimitOptions,
) -> int | None:
    """Serve a model version on Triton behind the gateway.

    lepton deploy digits --replicas 2 --wait

    lepton deploy digits@3 --name digits-next

    lepton deploy digits --replicas 4 --min-replicas 1 --queue production --priority 100

    lepton deploy loans --cost-matrix costs.csv --abstain-cost 5

    lepton deploy digits --min-replicas 0 --max-replicas 4 --target-in-flight 4

    lepton deploy digits --max-rate 500 --max-rate-per-caller 50 --max-in-flight 64 --max-deadline 2

    lepton deploy digits --serve max_batch_size=16 --serve instances=2 --serve response_cache=true
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
    model_id, version = parse_model(model)
    async with shell.client() as client:
        found = await client.models.get_version(model_id, version)
        deployment_id = name or found.name.split("/")[3]
        created = await client.deployments.create(
            deployment_id,
            found.name,
            replicas=replicas,
            min_replicas=min_replicas if wish is None else 0,
            autoscaling=wish,
            pools=pool or (),
            queue=queue,
            priority=priority,
            pipeline=around.read(found),
            serving=serving(serve or ()),
            limits=limits.over(CallLimits()) if limits.are_given else None,
        )
        if not wait:
            shell.printer.one(created, DEPLOYMENTS)
            return None
        settled = await settle(shell, client, created.name, timeout)
    shell.printer.one(settled, DEPLOYMENTS)
    return exits.OK if settled.state == Deployment.READY else exits.FAILED


async def settle(shell: Shell, client: AsyncClient, name: str, timeout_s: float) -> Deployment:
    """The deployment when it is ready or has failed, telling what happens until then."""
    said: list[str] = []

    def look(each: Deployment) -> bool:
        words = f"{state(each)}  {each.ready_replicas}/{options.asked(each)} ready  {each.message}".rstrip()
        if words not in said[-1:]:
            said.append(words)
            shell.note(words)
        return each.state in SETTLED and (each.state == Deployment.FAILED or each.ready_replicas >= options.asked(each))

    return await client.deployments.wait(name, until=look, timeout_s=timeout_s or None)


def parse_model(text: str) -> tuple[str, str]:
    """The model and the version, alias or `latest` that a user names."""
    match = _MODEL.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} has not the form MODEL, MODEL@VERSION or MODEL:ALIAS")
    return match["model"], match["version"] or match["alias"] or LATEST
