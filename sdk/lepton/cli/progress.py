"""Shows how a job goes while it trains: a line that moves on a terminal, lines elsewhere."""

import asyncio
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lepton.cli.columns import state
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.client.jobs import ENDED
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import LogLine, MetricPoint


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
            console=shell.stderr,
            transient=True,
            disable=not self._is_live,
        )
        self._task = self._bar.add_task("PENDING", total=1.0, measured="")
        self._said, self._epoch = "", -1

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
            return await self._states(client, name)

    async def _states(self, client: AsyncClient, name: str) -> Job:
        def look(job: Job) -> bool:
            words = f"{state(job)}{f': {job.message}' if job.message and job.state not in ENDED else ''}"
            if words != self._said:
                self._said = words
                if not self._is_live:
                    self._shell.note(words)
            self._bar.update(self._task, description=state(job), completed=job.progress.fraction)
            return job.state in ENDED

        return await client.jobs.wait(name, until=look)

    async def _metrics(self, client: AsyncClient, name: str) -> None:
        async for point in client.jobs.metrics(name, follow=True):
            words = measured(point)
            self._bar.update(self._task, measured=words)
            if not self._is_live and point.epoch != self._epoch:
                self._epoch = point.epoch
                self._shell.note(words)

    async def _logs(self, client: AsyncClient, name: str) -> None:
        async for line in client.jobs.logs(name, follow=True):
            self._bar.console.print(log_line(line), markup=False, highlight=False)


def measured(point: MetricPoint) -> str:
    """A measurement in a few words."""
    chosen = [name for name in ("loss", "accuracy", "test_accuracy") if name in point.values]
    values = "  ".join(f"{name} {point.values[name]:.4f}" for name in chosen)
    return f"epoch {point.epoch}  step {point.step}  {values}".rstrip()


def log_line(line: LogLine) -> str:
    """A rank's line with the rank before it."""
    return f"[rank {line.rank}] {line.text}"
