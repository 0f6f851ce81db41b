"""`lepton trace`."""

from typing import Annotated

import typer

from lepton import trace_tree
from lepton.cli.command import command
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.errors import NotFound

app = typer.Typer()


@command(app, "trace")
async def trace(
    shell: Shell,
    trace_id: Annotated[str, typer.Argument(help="The trace's id: 32 hexadecimal digits.")] = "",
    job: Annotated[str, typer.Option("--job", help="The trace in which this job was submitted.")] = "",
    deployment: Annotated[str, typer.Option("--deployment", help="Or in which this deployment was created.")] = "",
) -> int | None:
    """Show a trace as a tree: every service, agent, rank and server that had a part in it, with times.

    lepton train image_classifier --data digits --trace   # prints the id

    lepton trace --job digits
    """
    if [bool(trace_id), bool(job), bool(deployment)].count(True) != 1:
        raise typer.BadParameter("give one of TRACE_ID, --job JOB and --deployment DEPLOYMENT")
    async with shell.client() as client:
        chosen = trace_id or await _trace_of(client, job, deployment)
        spans = await client.trace(chosen)
    if not spans:
        raise NotFound("TRACE_NOT_FOUND", trace=chosen)
    if not shell.printer.is_for_people:
        shell.printer.document({"trace_id": chosen, "spans": spans})
        return None
    shell.printer.text(trace_tree.render(spans))
    services = sorted({span["service"] for span in spans})
    shell.note(f"{len(spans)} spans of {len(services)} services: {', '.join(services)}")
    return None


async def _trace_of(client: AsyncClient, job: str, deployment: str) -> str:
    found = await client.jobs.get(job) if job else await client.deployments.get(deployment)
    parts = found.trace_context.split("-")
    if len(parts) != 4:
        raise NotFound("TRACE_NOT_FOUND", trace=found.name)
    return parts[1]
