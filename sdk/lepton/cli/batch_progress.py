"""Shows how a batch prediction goes: a bar on a terminal, a line for each change elsewhere."""

from typing import Final

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lepton.cli.cells import duration, state
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.client.batch_predictions import ENDED
from lepton.inference.v1.batch_prediction_pb2 import BadRow, BatchPrediction

_SHOWN: Final = 5
"""Bad rows that are told; the manifest has all."""


async def follow(shell: Shell, client: AsyncClient, name: str, timeout_s: float = 0.0) -> BatchPrediction:
    """It when it has ended, telling on standard error how it goes until then."""
    is_live = shell.stderr.is_terminal
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[words]}"),
        TimeElapsedColumn(),
        console=shell.stderr,
        transient=True,
        disable=not is_live,
    )
    task, said = bar.add_task("PREPARING", total=None, words=""), list[str]()

    def look(each: BatchPrediction) -> bool:
        words = progress_words(each)
        bar.update(task, description=state(each), total=each.progress.rows or None, completed=each.progress.rows_done)
        bar.update(task, words=words)
        line = f"{state(each)}  {words}".rstrip()
        if not is_live and line not in said[-1:]:
            said.append(line)
            shell.note(line)
        return each.state in ENDED

    with bar:
        ended = await client.batch_predictions.wait(name, until=look, timeout_s=timeout_s or None)
    for line in bad_lines(ended):
        shell.note(line)
    if ended.state != BatchPrediction.SUCCEEDED:
        shell.note(f"{state(ended).lower()}: {ended.message}")
    return ended


def progress_words(batch: BatchPrediction) -> str:
    """How far it is, in a few words."""
    progress = batch.progress
    if not progress.rows:
        return batch.message
    words = [f"{progress.rows_done:,}/{progress.rows:,} rows"]
    if progress.rows_per_s:
        words.append(f"{progress.rows_per_s:,.0f} rows/s")
    if progress.bad_rows:
        words.append(f"{progress.bad_rows} bad")
    if progress.workers:
        words.append(f"{progress.workers} workers")
    if progress.eta_s:
        words.append(f"eta {duration(progress.eta_s)}")
    return "  ".join(words)


def bad_lines(batch: BatchPrediction) -> list[str]:
    """The first bad rows, a line each."""
    shown = batch.bad_rows[:_SHOWN]
    lines = [f"bad row {each.row}: {BadRow.Reason.Name(each.reason)}: {each.message}" for each in shown]
    more = batch.progress.bad_rows - len(shown)
    return [*lines, f"and {more} more: see `lepton batch-predictions manifest`"] if more > 0 else lines
