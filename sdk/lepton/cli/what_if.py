"""`lepton what-if`."""

from pathlib import Path
from typing import Annotated, Final

import typer
from google.protobuf.json_format import ParseDict, ParseError

from lepton.cli.cells import state
from lepton.cli.command import command
from lepton.cli.output import Column, as_dict
from lepton.cli.shell import Shell
from lepton.client.pools import pool_name
from lepton.names import FloatingResourceName, QueueName
from lepton.scheduler.v1.planning_service_pb2 import AddNodes, Change, SetQuota
from lepton.scheduler.v1.program_pb2 import ProcessProgram, Program
from lepton.scheduler.v1.queue_pb2 import FloatingResource, Quota
from lepton.scheduler.v1.resources_pb2 import Resources
from lepton.scheduler.v1.workload_pb2 import SliceGroup, Workload

app = typer.Typer(
    name="what-if",
    help="""Show what would be if the fleet or the queue were different; nothing is changed.

    The planner that runs the fleet plays it through on a copy, and the workloads whose outcome differs are shown.""",
    no_args_is_help=True,
)

OUTCOMES: Final = (
    Column("WORKLOAD", lambda each: each.workload),
    Column("STATE", state),
    Column("SLICES", lambda each: str(each.slices)),
    Column("STOPPED FOR ANOTHER", lambda each: "yes" if each.preempted else "-"),
    Column("WHY PENDING", lambda each: Workload.PendingReason.Name(each.reason) if each.reason else "-"),
    Column("MESSAGE", lambda each: each.message, is_wide=True),
)
_GIB: Final = 1 << 30
Everywhere = Annotated[bool, typer.Option("--all-projects", "-A", help="Show the workloads of all projects.")]


@command(app, "submit")
async def submit(
    shell: Shell,
    slices: Annotated[int, typer.Option(min=1, help="How many slices.")] = 1,
    devices: Annotated[float, typer.Option(min=0, help="Devices of each slice; below 1: a share of one.")] = 0,
    cpu: Annotated[float, typer.Option(min=0, help="Cores of each slice.")] = 1,
    memory: Annotated[float, typer.Option(min=0, help="GiB of memory of each slice.")] = 1,
    priority: Annotated[int, typer.Option(help="Larger goes first.")] = 0,
    pool: Annotated[list[str] | None, typer.Option(help="A pool it may run in; may be given several times.")] = None,
    queue: Annotated[str, typer.Option(help="The queue it waits in.")] = "",
    file: Annotated[Path | None, typer.Option(help="A whole workload, as `-o yaml` shows one, instead.")] = None,
    everywhere: Everywhere = False,
) -> int | None:
    """Show whether a workload would start now, and who would be stopped for it.

    lepton what-if submit --slices 8 --devices 1

    lepton what-if submit --file gang.yaml -A
    """
    if file is not None:
        wanted = _from_file(file)
    else:
        each = Resources(
            cpu_milli=round(1000 * cpu), memory_bytes=round(memory * _GIB), device_milli=round(1000 * devices)
        )
        runs = Program(process=ProcessProgram(argv=["true"]))  # what it runs makes no difference
        group = SliceGroup(name="worker", min_count=slices, resources=each, program=runs)
        wanted = Workload(kind=Workload.TRAINING, priority=priority, groups=[group])
        wanted.pools.extend(pool_name(name) for name in pool or ())
        wanted.queue = _queue(queue) if queue else ""
    return await _ask(shell, Change(submit=wanted), everywhere)


@command(app, "add-nodes")
async def add_nodes(
    shell: Shell,
    like: Annotated[str, typer.Argument(help="The node they are like: pools/POOL/nodes/NODE")],
    count: Annotated[int, typer.Option(min=1, max=10000, help="How many.")] = 1,
    everywhere: Everywhere = False,
) -> int | None:
    """Show what would start if there were more nodes.

    lepton what-if add-nodes pools/general/nodes/n1 --count 4
    """
    return await _ask(shell, Change(add_nodes=AddNodes(like=like, count=count)), everywhere)


@command(app, "set-quota")
async def set_quota(
    shell: Shell,
    queue: Annotated[str, typer.Argument(help="The queue's id or name.")],
    resource: Annotated[str, typer.Argument(help="The resource, for example device_milli.")],
    nominal: Annotated[int, typer.Argument(min=0, help="Its own, at any time.")],
    pool: Annotated[str, typer.Option(help="The pool that it is for; default: all pools together.")] = "",
    borrowing_limit: Annotated[int | None, typer.Option(min=0, help="The most it may borrow; default: any.")] = None,
    lending_limit: Annotated[int | None, typer.Option(min=0, help="The most it lends; default: all.")] = None,
    everywhere: Everywhere = False,
) -> int | None:
    """Show what another quota would change.

    lepton what-if set-quota research device_milli 16000
    """
    quota = Quota(
        resource=resource,
        nominal=nominal,
        pool=pool_name(pool) if pool else "",
        borrowing_limit=borrowing_limit,
        lending_limit=lending_limit,
    )
    return await _ask(shell, Change(set_quota=SetQuota(queue=_queue(queue), quota=quota)), everywhere)


@command(app, "set-floating-resource")
async def set_floating_resource(
    shell: Shell,
    resource: Annotated[str, typer.Argument(help="The floating resource's id or name.")],
    capacity: Annotated[int, typer.Argument(min=0, help="How much there is.")],
    everywhere: Everywhere = False,
) -> int | None:
    """Show what would start if there were more, or less, of a floating resource.

    lepton what-if set-floating-resource solver-licences 8
    """
    name = str(FloatingResourceName.parse(resource) if "/" in resource else FloatingResourceName(resource))
    change = Change(set_floating_resource=FloatingResource(name=name, capacity=capacity))
    return await _ask(shell, change, everywhere)


@command(app, "remove")
async def remove(
    shell: Shell,
    what: Annotated[str, typer.Argument(help="A workload by id or name, or a node: pools/POOL/nodes/NODE")],
    everywhere: Everywhere = False,
) -> int | None:
    """Show what would start without a workload, or stop without a node.

    lepton what-if remove big-gang

    lepton what-if remove pools/general/nodes/n1 -A
    """
    if what.startswith("pools/"):
        return await _ask(shell, Change(remove_node=what), everywhere)
    if "/" not in what:
        async with shell.client() as client:
            what = (await client.workloads.get(what)).name
    return await _ask(shell, Change(remove_workload=what), everywhere)


async def _ask(shell: Shell, change: Change, everywhere: bool) -> int | None:
    async with shell.client() as client:
        answer = await client.explain.what_if([change], project="-" if everywhere else None)
    if not shell.printer.is_for_people:
        shell.printer.document(as_dict(answer))
        return None
    if not answer.outcomes:
        shell.note("nothing would change")
        return None
    shell.printer.many(answer.outcomes, OUTCOMES)
    return None


def _queue(queue: str) -> str:
    return str(QueueName.parse(queue) if "/" in queue else QueueName(queue))


def _from_file(path: Path) -> Workload:
    import yaml  # seldom wanted

    try:
        found: Workload = ParseDict(yaml.safe_load(path.read_text()), Workload())
    except (ParseError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{path} is no workload: {error}") from error
    return found
