"""`lepton why`."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from lepton.cli.cells import duration
from lepton.cli.command import command
from lepton.cli.output import Column, as_dict
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.errors import FailedPrecondition, NotFound
from lepton.scheduler.v1.planning_service_pb2 import ExplainWorkloadResponse
from lepton.scheduler.v1.workload_pb2 import Workload

app = typer.Typer()

GAPS: Final = (
    Column("SHORT OF", lambda gap: gap.resource),
    Column("WHERE", lambda gap: gap.queue or gap.pool or "-"),
    Column("NEEDED", lambda gap: amount(gap.resource, gap.needed)),
    Column("AVAILABLE", lambda gap: amount(gap.resource, gap.available)),
    Column("MISSING", lambda gap: amount(gap.resource, gap.needed - gap.available)),
)


@command(app, "why")
async def why(
    shell: Shell, job: Annotated[str, typer.Argument(metavar="JOB", help="A job or a workload, by id or name.")]
) -> int | None:
    """Show why a job waits: the reason, what is short, who is in the way, the smallest change that would let it start,
    and when it may start.

    The change was tried: with it, the planner that runs the fleet gives the job a place.

    lepton why digits

    lepton why digits -o json | jq .changes
    """
    async with shell.client() as client:
        workload = await workload_of(client, job)
        answer = await client.explain.why(workload)
    if not shell.printer.is_for_people:
        shell.printer.document({"workload": workload, **as_dict(answer)})
        return None
    for line in lines(workload, answer):
        shell.printer.text(line)
    if answer.gaps:
        shell.printer.text("")
        shell.printer.many(answer.gaps, GAPS)
    return None


def lines(workload: str, answer: ExplainWorkloadResponse) -> list[str]:
    """The answer in words, without the table of what is short."""
    place = f" (number {answer.position} in its queue)" if answer.position else ""
    if not answer.reason:
        return [f"{workload}: {answer.message}"]
    told = [f"{workload} waits: {Workload.PendingReason.Name(answer.reason)}{place}", f"  {answer.message}"]
    if answer.blockers:
        told.append(f"  in the way: {', '.join(answer.blockers)}")
    if answer.changes:
        told.append(f"  smallest change: {'; '.join(each.description for each in answer.changes)}")
    else:
        told.append("  smallest change: none is known that would be enough")
    if answer.HasField("start"):
        told.append(f"  may start: {_when(answer.start.p50)}; nine times in ten {_when(answer.start.p90)}")
        told.append(f"    {answer.start.basis}")
    else:
        told.append("  may start: not known, as nothing says when what is before it ends")
    return told


def amount(resource: str, number: int) -> str:
    """An amount in the unit that people think in."""
    if resource.endswith("_milli"):
        return f"{number / 1000:g} {'cpu' if resource == 'cpu_milli' else 'dev'}"
    if resource.endswith("_bytes"):
        return f"{number / (1 << 30):g} GiB"
    return f"{number} Mb/s" if resource == "network_mbps" else str(number)


def _when(stamp: Any) -> str:
    moment = stamp.ToDatetime(tzinfo=UTC)
    left_s = (moment - datetime.now(UTC)).total_seconds()
    return "now" if left_s < 1 else f"in {duration(left_s)} (by {moment:%Y-%m-%d %H:%M} UTC)"


async def workload_of(client: AsyncClient, given: str) -> str:
    """The workload that is meant: that of a job, or one by itself."""
    if "/workloads/" in given:
        return given
    try:
        job = await client.jobs.get(given)
    except NotFound:
        if "/" in given:
            raise
        return (await client.workloads.get(given)).name
    if not job.workload:
        raise FailedPrecondition("JOB_WITHOUT_WORKLOAD", job=job.name)
    return job.workload
