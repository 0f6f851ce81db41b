"""`lepton workloads`."""

from typing import Annotated

import typer

from lepton.cli import arrays, exits
from lepton.cli.columns import WORKLOADS
from lepton.cli.command import command
from lepton.cli.process_options import ProcessOptions
from lepton.cli.shell import Shell
from lepton.cli.spans import seconds
from lepton.cli.why import workload_of
from lepton.client.queues import queue_name
from lepton.scheduler.v1.workload_pb2 import Workload

app = typer.Typer(
    name="workloads",
    help="Show everything that runs on the fleet, and change its place in the queue.",
    no_args_is_help=True,
)


@command(app, "list")
async def list_(
    shell: Shell,
    everywhere: Annotated[bool, typer.Option("--all-projects", "-A", help="Of all projects.")] = False,
) -> int | None:
    """List workloads: training, serving and conversions alike."""
    async with shell.client() as client:
        found = await client.workloads.list(project="-" if everywhere else None).all()
    shell.printer.many(found, WORKLOADS)
    return None


@command(app, "get")
async def get(
    shell: Shell,
    workload: Annotated[str, typer.Argument(metavar="JOB", help="A workload or a job, by id or name.")],
) -> int | None:
    """Show a workload, or that of a job; `-o yaml` shows where each of its slices runs."""
    async with shell.client() as client:
        found = await client.workloads.get(await workload_of(client, workload))
        shell.printer.one(found, WORKLOADS)
        for line in arrays.told(found) if shell.printer.is_for_people else ():
            shell.printer.text(line)
    return None


@command(app, "run")
async def run(
    shell: Shell,
    workload_id: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")],
    program: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="The command; no shell is involved.")],
    options: ProcessOptions,
    array: Annotated[
        str | None, typer.Option(help=f"Run it as many tasks, each with its LEPTON_ARRAY_INDEX: {arrays.FORM}.")
    ] = None,
    is_waiting: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for its end.")] = True,
) -> int | None:
    """Run a command on the fleet: once, or as an array of tasks that are placed, run and tried again one by one.

    lepton workloads run resize --array 0-999%50 --cpu 0.5 --max-restarts 2 -- python3 resize.py

    lepton workloads run clean --no-wait -- rm -rf /scratch/old
    """
    wish = arrays.read(array) if array is not None else None
    workload = options.workload(program)
    if wish is not None:
        workload.array.task_count, workload.array.first_index = wish.count, wish.first
        workload.groups[0].max_count = wish.at_once
    async with shell.client() as client:
        made = await client.workloads.create(workload_id, workload)
        if not is_waiting:
            shell.printer.one(made, WORKLOADS)
            return None
        shell.note(f"waiting for {made.name}; what is interrupted here goes on there")
        ended = await client.workloads.wait(made.name)
        shell.printer.one(ended, WORKLOADS)
        for line in arrays.told(ended):
            shell.note(line)
        return None if ended.state == Workload.SUCCEEDED else exits.FAILED


@command(app, "cancel")
async def cancel(
    shell: Shell,
    workload: Annotated[str, typer.Argument(metavar="JOB", help="A workload or a job, by id or name.")],
) -> int | None:
    """Stop a workload, an array with all of its tasks."""
    async with shell.client() as client:
        shell.printer.one(await client.workloads.cancel(await workload_of(client, workload)), WORKLOADS)
    return None


@command(app, "delete")
async def delete(
    shell: Shell,
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD", help="A workload that has ended.")],
) -> int | None:
    """Forget a workload that has ended."""
    async with shell.client() as client:
        await client.workloads.delete(workload)
    shell.note(f"deleted {workload}")
    return None


@command(app, "update")
async def update(
    shell: Shell,
    workload: Annotated[str, typer.Argument(metavar="JOB", help="A job or a workload, by id or name.")],
    priority: Annotated[int | None, typer.Option(min=-1000, max=1000, help="Larger goes first.")] = None,
    queue: Annotated[str | None, typer.Option(help="Another queue, while it waits; '' = the project's.")] = None,
    expected: Annotated[str | None, typer.Option(help="How long it is expected to run: 90s, 20m, 6h.")] = None,
    hold: Annotated[bool | None, typer.Option("--hold/--release", help="Whether it is kept from starting.")] = None,
) -> int | None:
    """Change the place of a job or workload in the queue; what is not given stays.

    lepton workloads update digits --priority 50 --queue urgent

    lepton workloads update digits --hold
    """
    async with shell.client() as client:
        current = await client.workloads.get(await workload_of(client, workload))
        fields = list[str]()
        if priority is not None:
            current.priority = priority
            fields.append("priority")
        if queue is not None:
            current.queue = queue_name(queue) if queue else ""
            fields.append("queue")
        if expected is not None:
            current.expected_duration_s = seconds(expected, "--expected")
            fields.append("expected_duration_s")
        if hold is not None:
            current.hold = hold
            fields.append("hold")
        if not fields:
            raise typer.BadParameter("nothing is to be changed; `lepton workloads update --help` shows what can be")
        current.etag = ""  # the planner writes it often; only the given fields are changed
        shell.printer.one(await client.workloads.update(current, fields), WORKLOADS)
    return None
