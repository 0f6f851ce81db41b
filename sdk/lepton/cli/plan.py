"""`lepton plan`."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf.message import Message

from lepton.cli import exits, plan_terms
from lepton.cli.command import command
from lepton.cli.output import Column, Form, as_dict
from lepton.cli.plan_terms import figure
from lepton.cli.shell import Shell
from lepton.scheduler.v1 import planning_service_pb2 as pb

app = typer.Typer(
    name="plan",
    help="Plan allocations, scaling and load balancing; nothing is changed.",
    no_args_is_help=True,
)


class Policy(StrEnum):
    """How a target is chosen."""

    ROUND_ROBIN = "round-robin"
    LEAST_CONNECTIONS = "least-connections"
    WEIGHTED = "weighted"
    POWER_OF_TWO_CHOICES = "power-of-two-choices"


_SCALING: Final = (
    Column("TARGET", lambda each: figure(each.target)),
    Column("CHANGE", lambda each: f"{'+' if each.change > 0 else ''}{figure(each.change)}"),
    Column("UNITS", lambda each: str(each.units) if each.units else "-"),
    Column("LOAD PER UNIT", lambda each: figure(each.load_per_unit) if each.units else "-"),
    Column("CARRIED", lambda each: "yes" if each.feasible else "no"),
)
_SHARES: Final = (
    Column("TARGET", lambda each: each.target),
    Column("REQUESTS", lambda each: str(each.requests)),
    Column("SHARE", lambda each: f"{100 * each.share:.1f}%"),
    Column("BY WEIGHT", lambda each: f"{100 * each.ideal:.1f}%"),
    Column("PEAK OPEN", lambda each: str(each.peak_open)),
)


@command(app, "allocation")
async def allocation(
    shell: Shell,
    demand: Annotated[
        list[str] | None, typer.Option("--demand", "-d", metavar=plan_terms.DEMAND, help="What is asked for; several.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            "-s",
            metavar=plan_terms.SOURCE,
            help="Machines that are alike, with what each has; several. Default: what is free in the fleet's pools.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", exists=True, dir_okay=False, help="The whole question, as YAML or JSON."),
    ] = None,
) -> int | None:
    """Find the cheapest allocation of demands to pools, as a linear program.

    4000 cores and 2 TB on 8 general machines of 2000 cores and 1 TB:

    lepton plan allocation -d task:cores=4000,storage=2T:GENERAL -s general:8:cores=2000,storage=1T:GENERAL

    On the fleet as it is now, whose resources are cpu_milli, memory_bytes, storage_bytes, device_milli, network_mbps:

    lepton plan allocation -d job:cpu_milli=64k,memory_bytes=256Gi

    With prices: -s spot:20:cores=2000:SPOT:cores=0.3. What names no price costs 1 a unit.

    What a source gives is spread evenly over its machines. When not all demands can be met, it says which resource of
    which class is short and by how much, shows the nearest plan that can be, and exits with 1.
    """
    request = plan_terms.request_of(file) if file else pb.PlanAllocationRequest()
    request.demands.extend(plan_terms.demand(each) for each in demand or ())
    request.sources.extend(plan_terms.source(each) for each in source or ())
    if not request.demands:
        raise typer.BadParameter(f"nothing is asked for; give --demand {plan_terms.DEMAND}, or --file")
    async with shell.client() as client:
        found = await client.planning.allocation(request.demands, request.sources)
    names = [f"{each.demand}/{each.source}" for each in found.grants]
    _show(shell, found, found.grants, _grant_columns(request), names)
    if shell.printer.is_for_people:
        shell.printer.text(f"cost {figure(found.cost)}")
        for words in _unmet(request, found):
            shell.printer.text(words)
    return _outcome(shell, found.feasible, found.violated)


@command(app, "scaling")
async def scaling(
    shell: Shell,
    load: Annotated[str, typer.Option(metavar="AMOUNT", help="The load to carry.")],
    base: Annotated[str, typer.Option(metavar="AMOUNT", help="The capacity there is now.")],
    max_step: Annotated[str, typer.Option(metavar="AMOUNT", help="The largest change in one step; 0 = any.")] = "0",
    min_step: Annotated[str, typer.Option(metavar="AMOUNT", help="The smallest change that is worth a step.")] = "0",
    unit: Annotated[
        str, typer.Option(metavar="AMOUNT", help="What capacity comes in, as the cores of a node; 0 = any amount.")
    ] = "0",
    min_units: Annotated[int, typer.Option(min=0, help="The fewest units.")] = 0,
    max_units: Annotated[int, typer.Option(min=0, help="The most units; 0 = any number.")] = 0,
) -> int | None:
    """Find how far to grow or shrink for a load: the least capacity that carries it, within the limits of one step.

    10000 cores of load on 8000, in nodes of 2500, growing by no more than 5000 and by no less than 1000 at once:

    lepton plan scaling --load 10000 --base 8000 --max-step 5000 --min-step 1000 --unit 2500

    A growth that is smaller than the smallest step is made that step; a reduction that is smaller is not done. When the
    load cannot be carried after one step, it says what holds it back, shows the nearest step, and exits with 1.
    """
    amounts = {"load": load, "base": base, "max-step": max_step, "min-step": min_step, "unit": unit}
    numbers = {name.replace("-", "_"): plan_terms.number(text, f"--{name}") for name, text in amounts.items()}
    async with shell.client() as client:
        found = await client.planning.scaling(**numbers, min_units=min_units, max_units=max_units)
    _show(shell, found, [found], _SCALING, [figure(found.target)])
    return _outcome(shell, found.feasible, found.violated)


@command(app, "balance")
async def balance(
    shell: Shell,
    target: Annotated[
        list[str],
        typer.Option("--target", "-t", metavar=plan_terms.TARGET, help="Who serves, and how fast; several."),
    ],
    policy: Annotated[Policy, typer.Option(help="How a target is chosen.")] = Policy.ROUND_ROBIN,
    requests: Annotated[int, typer.Option(min=0, max=20000, help="How many requests; 0 = 1000.")] = 0,
    concurrency: Annotated[
        int, typer.Option(min=0, max=10000, help="How many are open at once; 0 = twice the targets.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.")] = 0,
) -> int | None:
    """Show how a load balancing policy would spread requests over targets of different speed.

    lepton plan balance --policy weighted -t big:5 -t small:1 -t other:1 --requests 700

    A request is open on a target for 1 / its weight; a new one is sent as soon as one has ended. The makespan is when
    the last has ended: the lower, the better the targets were used.
    """
    weights = dict(plan_terms.target(each) for each in target)
    if len(weights) < len(target):
        raise typer.BadParameter("a target is there twice; give every --target another name")
    async with shell.client() as client:
        found = await client.planning.balancing(
            pb.PlanBalancingRequest.Policy.Value(policy.name),
            weights,
            requests=requests,
            concurrency=concurrency,
            seed=seed,
        )
    _show(shell, found, found.shares, _SHARES, [each.target for each in found.shares])
    if shell.printer.is_for_people:
        shell.printer.text(f"makespan {figure(found.makespan)}")
    return None


def _show(
    shell: Shell, answer: Message, rows: Sequence[Message], columns: Sequence[Column], names: Sequence[str]
) -> None:
    """The rows as a table, or the whole answer as a document, or names only."""
    if shell.printer.is_for_people:
        shell.printer.many(rows, columns)
    elif shell.printer.form is Form.NAME:
        for name in names:
            shell.printer.text(name)
    else:
        shell.printer.document(as_dict(answer))


def _outcome(shell: Shell, is_feasible: bool, violated: Sequence[str]) -> int:
    for words in violated:
        shell.note(f"cannot be held: {words}")
    return exits.OK if is_feasible else exits.FAILED


def _grant_columns(request: pb.PlanAllocationRequest) -> tuple[Column, ...]:
    wanted = {each.name: each.amounts for each in request.demands}

    def share(grant: Any) -> str:
        parts = {resource: value / wanted[grant.demand][resource] for resource, value in sorted(grant.amounts.items())}
        return ", ".join(f"{resource} {100 * part:.4g}%" for resource, part in parts.items())

    return (
        Column("DEMAND", lambda grant: grant.demand),
        Column("SOURCE", lambda grant: grant.source),
        Column("AMOUNTS", lambda grant: _amounts(grant.amounts)),
        Column("ON EACH NODE", lambda grant: _amounts(grant.per_node)),
        Column("OF THE DEMAND", share, is_wide=True),
    )


def _unmet(request: pb.PlanAllocationRequest, found: pb.PlanAllocationResponse) -> list[str]:
    """Who gets less than it asks for in the nearest plan, and how much."""
    words = []
    for each in request.demands if not found.feasible else ():
        mine = [grant.amounts for grant in found.grants if grant.demand == each.name]
        part = min(
            sum(amounts.get(resource, 0.0) for amounts in mine) / value
            for resource, value in each.amounts.items()
            if value
        )
        if part < 1 - 1e-6:
            words.append(f"{each.name} gets {100 * part:.4g}% of what it asks for")
    return words


def _amounts(amounts: Any) -> str:
    return ", ".join(f"{resource} {figure(amounts[resource])}" for resource in sorted(amounts))
