"""`lepton jobs`."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from lepton.cli import job_curves
from lepton.cli.columns import CHECKPOINTS, JOBS
from lepton.cli.command import command
from lepton.cli.job_words import details
from lepton.cli.output import as_dict
from lepton.cli.progress import log_line, measured
from lepton.cli.shell import Shell
from lepton.cli.submission import outcome

app = typer.Typer(name="jobs", help="List, watch, compare, cancel and delete training jobs.", no_args_is_help=True)
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job's id or name.")]


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the project's jobs."""
    async with shell.client() as client:
        shell.printer.many(await client.jobs.list().all(), JOBS)
    return None


@command(app, "get")
async def get(shell: Shell, job: JobName) -> int | None:
    """Show a job; `-o yaml` shows everything about it."""
    async with shell.client() as client:
        found = await client.jobs.get(job)
    shell.printer.one(found, JOBS)
    if shell.printer.is_for_people:
        for line in details(found, datetime.now(UTC)):
            shell.printer.text(line)
    return None


@command(app, "watch")
async def watch(
    shell: Shell, job: Annotated[str, typer.Argument(metavar="[JOB]", help="One job; default: all.")] = ""
) -> int | None:
    """Show a job as it goes until it has ended; without a job, all of the project for ever.

    On a terminal it is a table that moves; elsewhere a line for every change, with -o json a document for every change.
    """
    from lepton.cli import job_watch  # the table that moves is loaded only here

    async with shell.client() as client:
        if not job:
            await job_watch.watch_all(shell, client)
            return None
        ended = await job_watch.watch_one(shell, client, job)
    return None if ended is None else outcome(shell, ended)


@command(app, "wait")
async def wait(
    shell: Shell,
    job: JobName,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds to wait; 0 = for ever.")] = 0.0,
) -> int | None:
    """Wait until a job has ended; exits with 1 when it did not succeed."""
    async with shell.client() as client:
        ended = await client.jobs.wait(job, timeout_s=timeout or None)
    shell.printer.one(ended, JOBS)
    return outcome(shell, ended)


@command(app, "logs")
async def logs(
    shell: Shell,
    job: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    rank: Annotated[list[int] | None, typer.Option(help="Only this rank; may be given several times.")] = None,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Only the last so many lines; 0 = all.")] = 0,
    offset: Annotated[
        int, typer.Option("--since-offset", "--offset", min=0, help="Begin behind this line; -o json shows offsets.")
    ] = 0,
) -> int | None:
    """Print what a job's ranks printed; also when the job and its nodes are gone.

    lepton jobs logs digits --tail 20

    lepton jobs logs digits --follow --rank 0
    """
    async with shell.client() as client:
        async for line in client.jobs.logs(job, follow=follow, offset=offset, ranks=rank or (), tail=tail):
            if shell.printer.is_for_people:
                shell.printer.text(log_line(line))
            else:
                shell.printer.document(as_dict(line), compact=True)
    return None


@command(app, "metrics")
async def metrics(
    shell: Shell,
    job: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    max_points: Annotated[
        int, typer.Option(min=0, help="About so many of the points; ends and peaks stay. 0 = all.")
    ] = 0,
    offset: Annotated[
        int, typer.Option("--since-offset", min=0, help="Begin behind this point; -o json shows offsets.")
    ] = 0,
) -> int | None:
    """Print what a job measured, step by step."""
    async with shell.client() as client:
        async for point in client.jobs.metrics(job, follow=follow, offset=offset, max_points=max_points):
            if shell.printer.is_for_people:
                shell.printer.text(measured(point))
            else:
                shell.printer.document(as_dict(point), compact=True)
    return None


@command(app, "checkpoints")
async def checkpoints(shell: Shell, job: JobName) -> int | None:
    """List a job's checkpoints, newest first."""
    async with shell.client() as client:
        shell.printer.many(await client.jobs.checkpoints(job).all(), CHECKPOINTS)
    return None


@command(app, "cancel")
async def cancel(
    shell: Shell, job: JobName, wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False
) -> int | None:
    """Stop a job; its checkpoints stay."""
    async with shell.client() as client:
        stopped = await client.jobs.cancel(job)
        shell.printer.one(await client.jobs.wait(job) if wait else stopped, JOBS)
    return None


@command(app, "delete")
async def delete(shell: Shell, job: JobName) -> int | None:
    """Delete a job that has ended, with its logs and checkpoints."""
    async with shell.client() as client:
        await client.jobs.delete(job)
    shell.note(f"deleted {job}")
    return None


job_curves.register(app)
