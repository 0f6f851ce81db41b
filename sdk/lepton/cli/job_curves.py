"""`lepton jobs compare`, `plot` and `tensorboard`: what jobs have measured, side by side."""

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lepton.cli.cells import duration
from lepton.cli.command import command
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.curves import Comparison, Curves
from lepton.curves import compare as compared
from lepton.errors import InvalidArgument

Jobs = Annotated[list[str], typer.Argument(metavar="JOB...", help="The jobs' ids or names.")]
_POINTS = 2000


class By(StrEnum):
    """What curves are drawn over."""

    STEP = "step"
    EPOCH = "epoch"
    MINUTE = "minute"


def register(app: typer.Typer) -> None:
    """Adds the commands to `lepton jobs`."""
    command(app, "compare")(compare)
    command(app, "plot")(plot)
    command(app, "tensorboard")(tensorboard)


async def compare(shell: Shell, jobs: Jobs) -> int | None:
    """Show jobs side by side: the settings that differ, what they reached, their best, how long and how fast.

    lepton jobs compare small large -o json
    """
    if len(set(jobs)) < 2:
        raise InvalidArgument("INVALID_FIELD", fields={"JOB": "give at least two different jobs to compare"})
    async with shell.client() as client:
        comparison = compared(await _curves(client, jobs))
    if shell.printer.is_for_people:
        shell.printer.table(_table(comparison))
    else:
        shell.printer.document(json.loads(json.dumps(asdict(comparison))))
    return None


async def plot(
    shell: Shell,
    jobs: Jobs,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="A metric; several: several. Default: loss, accuracy.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file: .png, .svg or .pdf.", dir_okay=False)] = Path("curves.png"),
    by: Annotated[By, typer.Option(help="What the curves are drawn over.")] = By.STEP,
    log: Annotated[bool, typer.Option("--log", help="A logarithmic scale.")] = False,
) -> int | None:
    """Draw the curves of one or several jobs into a file.

    lepton jobs plot small large --metric loss --out losses.png
    """
    from lepton.curves import plot as plotting

    if out.suffix not in (".png", ".svg", ".pdf"):
        raise InvalidArgument("INVALID_FIELD", fields={"--out": "must end in .png, .svg or .pdf"})
    async with shell.client() as client:
        curves = await _curves(client, jobs)
    figure = plotting.plot(curves, metrics=metric or (), by=by.value, log=log)
    await asyncio.to_thread(plotting.save, figure, out)
    shell.printer.text(str(out))
    return None


async def tensorboard(
    shell: Shell,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id or name.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The log directory; the job gets a folder in it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
) -> int | None:
    """Write what a job measured as TensorBoard's event files; again later, what is new is added.

    lepton jobs tensorboard small runs && lepton jobs tensorboard large runs && tensorboard --logdir runs
    """
    from lepton.curves.event_files import RunFolder

    async with shell.client() as client:
        found = await client.jobs.get(job)
        with await asyncio.to_thread(RunFolder, directory, found) as folder:
            count = 0
            points = client.jobs.metrics(found.name, follow=follow, offset=folder.offset)
            async for point in points:
                folder.add([point], is_flushed=follow)
                count += 1
    shell.printer.text(str(folder.path))
    shell.note(f"{count} points written; see them with: tensorboard --logdir {directory}")
    return None


async def _curves(client: AsyncClient, jobs: Sequence[str]) -> list[Curves]:
    return list(await asyncio.gather(*(client.jobs.curves(job, max_points=_POINTS) for job in dict.fromkeys(jobs))))


def _table(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for job in comparison.jobs:
        table.add_column(job, overflow="fold")

    def rows(values: dict[str, Sequence[Any]], shown: Callable[[Any], str] = str) -> None:
        for name, row in values.items():
            table.add_row(Text(name), *(Text("-" if value is None else shown(value)) for value in row))

    rows({"state": comparison.states})
    rows(dict(comparison.settings))
    rows(dict(comparison.metrics), _number)
    rows(
        {f"best {name}": row for name, row in comparison.best.items()},
        lambda best: f"{_number(best.value)} (step {best.step})",
    )
    rows({"duration": comparison.duration_s}, lambda each: f"{each:.1f}s" if each < 60 else duration(each))
    rows({"samples/s": comparison.samples_per_s}, _number)
    rows({"restarts": comparison.restarts})
    return table


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else str(value)
