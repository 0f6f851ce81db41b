"""`lepton deployments update` and `lepton deployments rollout`."""

from typing import Annotated

import typer

from lepton.cli import exits
from lepton.cli.columns import DEPLOYMENTS, REVISIONS, ROLLOUTS
from lepton.cli.command import command
from lepton.cli.deploy import parse_model
from lepton.cli.limit_options import LimitOptions
from lepton.cli.rollout_words import lines
from lepton.cli.shell import Shell
from lepton.cli.strategy_options import (
    AccuracyOption,
    AgreementOption,
    BlueGreenOption,
    CanaryOption,
    DifferenceOption,
    ErrorsOption,
    GateOption,
    HoldOption,
    KeepOption,
    LatencyOption,
    ManualOption,
    SurgeOption,
    WindowOption,
    strategy,
)
from lepton.client import AsyncClient
from lepton.client.deployments import is_rolled_out
from lepton.inference.v1.deployment_pb2 import Deployment

app = typer.Typer(
    name="rollout", help="Follow and steer how a deployment goes over to a version.", no_args_is_help=True
)
updating = typer.Typer()
DeploymentName = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its id or name.")]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Until the rollout is over; exits with 1 when it ended badly.")
]
TimeoutOption = Annotated[float, typer.Option(min=0.0, help="Seconds to wait; 0 = for ever.")]


@command(updating, "update")
async def update(
    shell: Shell,
    deployment: DeploymentName,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL[@VERSION|:ALIAS]", help="The version to go over to; none = limits only."),
    ] = "",
    canary: CanaryOption = "",
    hold: HoldOption = 60.0,
    manual: ManualOption = False,
    blue_green: BlueGreenOption = False,
    keep_old: KeepOption = 0.0,
    max_surge: SurgeOption = None,
    gate: GateOption = False,
    max_difference: DifferenceOption = None,
    min_agreement: AgreementOption = None,
    max_accuracy_drop: AccuracyOption = None,
    max_latency_ratio: LatencyOption = None,
    max_error_ratio: ErrorsOption = None,
    window: WindowOption = 0.0,
    wait: WaitOption = False,
    timeout: TimeoutOption = 900.0,
    *,
    limits: LimitOptions,
) -> int | None:
    """Go over to another version without a lost call, or change what callers may ask of this one.

    The strategy is kept for the next time. Limits are in force at once, and make no new revision.

    lepton deployments update digits digits@4 --wait

    lepton deployments update digits digits --canary 10,50 --hold 300 --gate --max-accuracy-drop 0.005

    lepton deployments update digits digits:champion --blue-green --gate --keep-old 600

    lepton deployments update digits --max-rate 500 --max-in-flight 64
    """
    chosen = strategy(
        canary=canary,
        hold=hold,
        manual=manual,
        blue_green=blue_green,
        keep_old=keep_old,
        max_surge=max_surge,
        gate=gate,
        max_difference=max_difference,
        min_agreement=min_agreement,
        max_accuracy_drop=max_accuracy_drop,
        max_latency_ratio=max_latency_ratio,
        max_error_ratio=max_error_ratio,
        window=window,
    )
    if not model and (chosen is not None or wait or not limits.are_given):
        raise typer.BadParameter("say which MODEL[@VERSION|:ALIAS] to go over to, or give limits alone")
    async with shell.client() as client:
        current = await client.deployments.get(deployment)
        asked = limits.over(current.limits) if limits.are_given else None
        if not model:
            current.limits.CopyFrom(asked or current.limits)
            current.etag = ""
            shell.printer.one(await client.deployments.update(current, "limits"), DEPLOYMENTS)
            return None
        version = await client.models.get_version(*parse_model(model))
        changed = await client.deployments.roll_out(deployment, version.name, strategy=chosen, limits=asked)
        if wait:
            return await _follow(shell, client, deployment, timeout)
        shell.printer.one(changed, DEPLOYMENTS)
    return None


@command(app, "status")
async def status(
    shell: Shell, deployment: DeploymentName, wait: WaitOption = False, timeout: TimeoutOption = 900.0
) -> int | None:
    """Show where a rollout stands, and what its comparisons have found.

    lepton deployments rollout status digits --wait
    """
    async with shell.client() as client:
        if wait:
            return await _follow(shell, client, deployment, timeout)
        _show(shell, await client.deployments.get(deployment))
    return None


@command(app, "history")
async def history(shell: Shell, deployment: DeploymentName) -> int | None:
    """List a deployment's revisions, newest first."""
    async with shell.client() as client:
        shell.printer.many(await client.deployments.revisions(deployment).all(), REVISIONS)
    return None


@command(app, "pause")
async def pause(shell: Shell, deployment: DeploymentName) -> int | None:
    """Stop a rollout where it is; a version that does badly is still taken back."""
    async with shell.client() as client:
        _show(shell, await client.deployments.pause(deployment))
    return None


@command(app, "resume")
async def resume(shell: Shell, deployment: DeploymentName) -> int | None:
    """Let a paused rollout go on."""
    async with shell.client() as client:
        _show(shell, await client.deployments.resume(deployment))
    return None


@command(app, "promote")
async def promote(
    shell: Shell,
    deployment: DeploymentName,
    full: Annotated[bool, typer.Option("--full", help="All steps, and without further comparisons.")] = False,
) -> int | None:
    """End the present step of a rollout."""
    async with shell.client() as client:
        _show(shell, await client.deployments.promote(deployment, full=full))
    return None


@command(app, "abort")
async def abort(shell: Shell, deployment: DeploymentName) -> int | None:
    """Take a rollout back to the version that it came from."""
    async with shell.client() as client:
        _show(shell, await client.deployments.abort(deployment))
    return None


@command(app, "undo")
async def undo(
    shell: Shell,
    deployment: DeploymentName,
    to_revision: Annotated[int, typer.Option(min=0, help="Its number; 0 = the one before.")] = 0,
    wait: WaitOption = False,
    timeout: TimeoutOption = 900.0,
) -> int | None:
    """Go back to an earlier revision, by the deployment's strategy.

    lepton deployments rollout history digits && lepton deployments rollout undo digits --to-revision 3
    """
    async with shell.client() as client:
        changed = await client.deployments.undo(deployment, revision=to_revision)
        if wait:
            return await _follow(shell, client, deployment, timeout)
        _show(shell, changed)
    return None


async def _follow(shell: Shell, client: AsyncClient, name: str, timeout_s: float) -> int:
    said: list[str] = []

    def look(each: Deployment) -> bool:
        words = next(iter(lines(each)))
        if words not in said[-1:]:
            said.append(words)
            shell.note(words)
        return is_rolled_out(each)

    settled = await client.deployments.wait(name, until=look, timeout_s=timeout_s or None)
    _show(shell, settled)
    return exits.OK if settled.rollout.stable_revision == settled.revision else exits.FAILED


def _show(shell: Shell, deployment: Deployment) -> None:
    shell.printer.one(deployment, ROLLOUTS)
    if shell.printer.is_for_people:
        for line in list(lines(deployment))[1:]:
            shell.printer.text(line)
