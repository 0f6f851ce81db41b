"""The options that say how a deployment's replicas follow its load, and what is shown of it."""

from typing import Any, Final

import typer
from google.protobuf.duration_pb2 import Duration

from lepton.inference.v1.autoscaling_pb2 import Autoscaling
from lepton.inference.v1.deployment_pb2 import Deployment

MAX_REPLICAS: Final = typer.Option(
    min=0, max=1000, help="Scale with the load up to so many; --min-replicas is then the least, and 0 lets it sleep."
)
IN_FLIGHT: Final = typer.Option(min=0.0, help="Calls in flight for each replica; 4 where no target is given.")
REQUESTS: Final = typer.Option(min=0.0, help="Requests per second for each replica.")
QUEUE_DELAY: Final = typer.Option(min=0.0, help="Milliseconds that a request may wait in a replica's queue.")
UTILIZATION: Final = typer.Option(min=0.0, max=1.0, help="Share of the time that a replica computes, 0 to 1.")
SLEEP_AFTER: Final = typer.Option(min=0.0, help="Seconds without a call before the last replica goes; default 600.")
DOWN_AFTER: Final = typer.Option(min=0.0, help="Seconds before replicas that are too many go; default 300.")
FORECAST: Final = typer.Option("--forecast", help="Start replicas ahead of a load that comes every day.")


def autoscaling(
    min_replicas: int,
    max_replicas: int,
    *,
    in_flight: float = 0.0,
    requests: float = 0.0,
    queue_delay_ms: float = 0.0,
    utilization: float = 0.0,
    sleep_after_s: float | None = None,
    down_after_s: float | None = None,
    forecast: bool = False,
) -> Autoscaling | None:
    """What the options wish; None when they do not ask for it. Raises BadParameter."""
    asked = in_flight or requests or queue_delay_ms or utilization or sleep_after_s is not None
    if not max_replicas:
        if asked or down_after_s is not None or forecast:
            raise typer.BadParameter("--max-replicas N is what switches autoscaling on: give it too")
        return None
    targets = Autoscaling.Targets(in_flight=in_flight, requests_per_second=requests, utilization=utilization)
    if queue_delay_ms:
        targets.queue_delay.CopyFrom(_duration(queue_delay_ms / 1000))
    wish = Autoscaling(min_replicas=min_replicas, max_replicas=max_replicas, targets=targets, forecast=forecast)
    if sleep_after_s is not None:
        wish.scale_to_zero_delay.CopyFrom(_duration(sleep_after_s))
    if down_after_s is not None:
        wish.down_stabilization.CopyFrom(_duration(down_after_s))
    return wish


def asked(deployment: Deployment) -> int:
    """How many replicas there should be now."""
    if deployment.HasField("autoscaling") and deployment.HasField("scaling"):
        return deployment.scaling.desired
    return deployment.replicas


def scaling_lines(deployment: Deployment) -> list[str]:
    """How its replicas follow the load, in words; nothing where they do not."""
    if not deployment.HasField("autoscaling"):
        return []
    wish, status = deployment.autoscaling, deployment.scaling
    lines = [f"scales between {wish.min_replicas} and {wish.max_replicas} replicas, by {_targets(wish)}"]
    if not deployment.HasField("scaling"):
        return lines
    lines.append(f"desired {status.desired}, current {deployment.ready_replicas}: {status.why}")
    lines += [
        f"  {each.time.ToDatetime():%Y-%m-%d %H:%M:%S}  {each.before} -> {each.after}  {each.why}"
        for each in status.decisions
        if each.before != each.after
    ]
    return lines


def _targets(wish: Autoscaling) -> str:
    targets = wish.targets
    found: list[Any] = []
    if targets.in_flight:
        found.append(f"{targets.in_flight:g} calls in flight each")
    if targets.requests_per_second:
        found.append(f"{targets.requests_per_second:g} requests/s each")
    if targets.HasField("queue_delay"):
        found.append(f"{targets.queue_delay.ToNanoseconds() / 1e6:g} ms in the queue")
    if targets.utilization:
        found.append(f"{targets.utilization:g} of the time computing")
    return ", ".join(found) or "4 calls in flight each"


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made
