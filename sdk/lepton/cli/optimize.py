"""`lepton models optimize` and `lepton optimizations`."""

import asyncio
import re
import uuid
from enum import StrEnum
from typing import Annotated, Final

import typer

from lepton.cli import exits
from lepton.cli.command import command
from lepton.cli.deploy import parse_model
from lepton.cli.optimization_board import COLUMNS, follow, show
from lepton.cli.shell import Shell
from lepton.cli.train import dataset
from lepton.client import AsyncClient
from lepton.errors import FailedPrecondition
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization, OptimizationRule
from lepton.recipes import RECIPES

app = typer.Typer(
    name="optimizations", help="List, watch, stop and delete searches for better variants.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(metavar="MODEL/OPTIMIZATION", help="Or the whole name.")]
_SIZES: Final = {"": 1, "b": 1, "kb": 1000, "kib": 1 << 10, "mb": 10**6, "mib": 1 << 20, "gb": 10**9, "gib": 1 << 30}
_MOST_AS_PART: Final = 0.1


class Target(StrEnum):
    """What is wanted most."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SIZE = "size"


async def optimize(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|:ALIAS]", help="What to make better.")],
    max_accuracy_drop: Annotated[
        str, typer.Option(help="The most accuracy that may be lost: 0.5%, or as a part of one, 0.005.")
    ] = "0.5%",
    max_size: Annotated[str, typer.Option(help="The most bytes of the model: 50% of it, or 2MB; empty = any.")] = "",
    target: Annotated[Target, typer.Option(help="What is wanted most within that.")] = Target.LATENCY,
    variants: Annotated[str, typer.Option(help="Only these, with commas between: int8-static,pruned-int8.")] = "",
    data: Annotated[
        str,
        typer.Option(help="A file, a folder or digits: to retune, calibrate and measure with; a fifth is held out."),
    ] = "",
    epochs: Annotated[int, typer.Option(min=0, max=1000, help="Passes when a model is retuned; 0 = 12.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    device: Annotated[
        list[str] | None, typer.Option(help="Also engines for this accelerator, for example H200.")
    ] = None,
    name: Annotated[str, typer.Option(help="The optimisation's id.")] = "",
    pool: Annotated[list[str] | None, typer.Option(help="A pool it may run in; several by preference.")] = None,
    queue: Annotated[str, typer.Option(help="The queue it waits in; default: the project's.")] = "",
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Larger goes first.")] = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show how it goes until it has ended.")] = False,
    register: Annotated[bool, typer.Option("--register", help="Wait, then register the proposed variant.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Register it without asking.")] = False,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds to wait; 0 = for ever.")] = 0.0,
) -> int | None:
    """Search the variants of a model for the best one that keeps a rule.

    lepton models optimize digits --max-accuracy-drop 0.5% --target latency --wait

    lepton models optimize digits@3 --target size --max-size 50% --register --yes

    lepton models optimize digits --variants int8-static,pruned-int8 --data mnist/ --wait -o json

    Every variant is made and measured as a workload of its own: pruned, quantised, distilled, compiled. One that loses
    more accuracy than allowed is shown with its numbers and never proposed. Without --data the samples are those that
    the model was trained on; the accuracy is measured on what was held out. Where there are no labels, what is measured
    is how often a variant answers as the original does.
    """
    model_id, version = parse_model(model)
    rule = OptimizationRule(max_accuracy_drop=parse_drop(max_accuracy_drop))
    parse_size(max_size, rule)
    wanted = Optimization(
        rule=rule,
        target=Optimization.Target.Value(target.name),
        variants=[each.strip() for each in variants.split(",") if each.strip()],
        epochs=epochs,
        seed=seed,
        device_models=device or (),
        pools=[each if each.startswith("pools/") else f"pools/{each}" for each in pool or ()],
        queue=queue if not queue or queue.startswith("queues/") else f"queues/{queue}",
        priority=priority,
    )
    async with shell.client() as client:
        found = await client.models.get_version(model_id, version)
        wanted.model_version = found.name
        if data:
            wanted.dataset = await _upload(client, found, data)
        identifier = name or f"{target}-{uuid.uuid4().hex[:6]}"
        begun = await client.optimizations.create(found.name.rpartition("/versions/")[0], identifier, wanted)
        if not (wait or register or yes):
            shell.printer.one(begun, COLUMNS)
            return None
        shell.note(f"searching {len(begun.variant_states)} variants of {found.name} as {begun.name}")
        ended = await follow(shell, client, begun.name, timeout)
        show(shell, ended)
        if register or yes:
            return await _register(shell, client, ended, is_sure=yes)
    if ended.proposed and shell.printer.is_for_people:
        shell.note(f"register it: lepton models register {model_id} --package {ended.proposed_package}")
    return exits.OK if ended.state == Optimization.SUCCEEDED else exits.FAILED


@command(app, "list")
async def list_(
    shell: Shell, model: Annotated[str, typer.Argument(help="Only those of this model.")] = ""
) -> int | None:
    """List searches, of a model or of all."""
    async with shell.client() as client:
        shell.printer.many(await client.optimizations.list(model).all(), COLUMNS)
    return None


@command(app, "get")
async def get(shell: Shell, name: Name) -> int | None:
    """Show a search with every variant: what was measured, who is refused and why, who is proposed."""
    async with shell.client() as client:
        show(shell, await client.optimizations.get(name))
    return None


@command(app, "watch")
async def watch(shell: Shell, name: Name) -> int | None:
    """Show how a search goes until it has ended."""
    async with shell.client() as client:
        ended = await follow(shell, client, name, 0.0)
    show(shell, ended)
    return exits.OK if ended.state == Optimization.SUCCEEDED else exits.FAILED


@command(app, "cancel")
async def cancel(shell: Shell, name: Name) -> int | None:
    """Stop a search; what was measured until then stands."""
    async with shell.client() as client:
        shell.printer.one(await client.optimizations.cancel(name), COLUMNS)
    return None


@command(app, "delete")
async def delete(shell: Shell, name: Name) -> int | None:
    """Delete a search; packages and registered versions stay."""
    async with shell.client() as client:
        shell.printer.one(await client.optimizations.delete(name), COLUMNS)
    return None


def parse_drop(text: str) -> float:
    """A part of one of `0.5%` or `0.005`; what could be meant either way is refused."""
    number, is_percent = _number(text, "--max-accuracy-drop")
    part = number / 100 if is_percent else number
    if not 0 <= part <= 1 or (not is_percent and part > _MOST_AS_PART):
        raise typer.BadParameter(f"--max-accuracy-drop: {text!r} is not clear; say 0.5% or 0.005")
    return part


def parse_size(text: str, rule: OptimizationRule) -> None:
    """Sets a rule's size to `50%` of the original, or to bytes such as `2MB`."""
    if not text:
        return
    match = re.fullmatch(r"([0-9.]+)\s*([a-zA-Z]*)", text.strip())
    if text.strip().endswith("%"):
        part = _number(text, "--max-size")[0] / 100
        if not 0 < part <= 1:
            raise typer.BadParameter(f"--max-size: {text!r} is not a part of the original; say for example 50%")
        rule.max_size_ratio = part
    elif match and match[2].lower() in _SIZES:
        rule.max_bytes = int(_number(match[1], "--max-size")[0] * _SIZES[match[2].lower()])
    else:
        raise typer.BadParameter(f"--max-size: {text!r} is no size; say 50%, 200kB or 2MB")


def _number(text: str, option: str) -> tuple[float, bool]:
    plain = text.strip()
    try:
        return float(plain.removesuffix("%")), plain.endswith("%")
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!r} is no number") from error


async def _upload(client: AsyncClient, version: ModelVersion, source: str) -> str:
    info = RECIPES.get(version.lineage.recipe, RECIPES["image_classifier"])
    content = await asyncio.to_thread(dataset, source, recipe=info)
    return (await client.artifacts.upload(content)).digest


async def _register(shell: Shell, client: AsyncClient, ended: Optimization, *, is_sure: bool) -> int:
    if not ended.proposed:
        raise FailedPrecondition("OPTIMIZATION_WITHOUT_PROPOSAL", optimization=ended.name, message=ended.message)
    model = ended.name.split("/")[3]
    if not is_sure and not typer.confirm(f"register {ended.proposed} as the next version of {model}?", err=True):
        return exits.OK
    made = await client.models.register(ended.name.rpartition("/optimizations/")[0], ended.proposed_package)
    shell.note(f"registered {made.name}, made of {ended.model_version}")
    return exits.OK
