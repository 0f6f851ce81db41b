"""Shows how a job goes while it trains: a line that moves on a terminal, lines elsewhere."""

import asyncio
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lepton.cli.cells import duration, state
from lepton.cli.job_words import eta_s, failure_lines
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.client.jobs import ENDED
from lepton.curves.curves import HIDDEN
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import LogLine, MetricPoint

_MOST_VALUES: Final = 4


class JobProgress:
    """Follows one job on standard error. A context manager."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._is_live = shell.stderr.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[measured]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=shell.stderr,
            transient=True,
            disable=not self._is_live,
        )
        self._task = self._bar.add_task("PENDING", total=1.0, measured="", left="")
        self._said, self._epoch, self._failures = "", -1, 0
        self._is_told = False  # by the program's own lines, one an epoch

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    async def follow(self, client: AsyncClient, name: str, *, logs: bool) -> Job:
        """Show the job until it has ended, and everything it said until then."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._metrics(client, name))
            if logs:
                tasks.create_task(self._logs(client, name))
            return await self._states(client, name, logs=logs)

    async def _states(self, client: AsyncClient, name: str, *, logs: bool) -> Job:
        def look(job: Job) -> bool:
            self._is_told = logs and job.HasField("recipe")
            words = f"{state(job)}{f': {job.message}' if job.message and job.state not in ENDED else ''}"
            if words != self._said:
                self._said = words
                if not self._is_live:
                    self._shell.note(words)
            left_s = eta_s(job, datetime.now(UTC))
            left = f"eta {duration(left_s)}" if left_s else ""
            self._bar.update(self._task, description=state(job), completed=job.progress.fraction, left=left)
            if job.state not in ENDED:  # else whoever waits for the end tells it
                self._tell_failures(job)
            return job.state in ENDED

        return await client.jobs.wait(name, until=look)

    def _tell_failures(self, job: Job) -> None:
        for error in job.failures[self._failures :]:
            self._bar.console.print("\n".join(failure_lines(error)), markup=False, highlight=False)
        self._failures = len(job.failures)

    async def _metrics(self, client: AsyncClient, name: str) -> None:
        async for point in client.jobs.metrics(name, follow=True):
            words = measured(point)
            self._bar.update(self._task, measured=words)
            if not self._is_live and not self._is_told and point.epoch != self._epoch:
                self._epoch = point.epoch
                self._shell.note(words)

    async def _logs(self, client: AsyncClient, name: str) -> None:
        async for line in client.jobs.logs(name, follow=True):
            self._bar.console.print(log_line(line), markup=False, highlight=False)


def measured(point: MetricPoint) -> str:
    """A measurement in a few words."""
    shown = set(point.values) - HIDDEN
    first: list[str] = [name for name in ("loss", "accuracy") if name in shown]
    chosen = [*first, *sorted(shown - set(first))][:_MOST_VALUES]
    values = "  ".join(f"{name} {point.values[name]:.4f}" for name in chosen)
    return f"epoch {point.epoch + 1}  step {point.step}  {values}".rstrip()


def log_line(line: LogLine) -> str:
    """A rank's line with the rank before it; what the trainer itself says stands as it is."""
    return line.text if line.rank < 0 else f"[rank {line.rank}] {line.text}"
