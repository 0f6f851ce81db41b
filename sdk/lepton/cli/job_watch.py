"""`lepton jobs watch`: a live table on a terminal; elsewhere a line, or a document, for every change."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Final

from rich.live import Live

from lepton.cli.columns import JOBS
from lepton.cli.job_board import Board
from lepton.cli.job_words import failure_line, failures, one_line, straggler_line
from lepton.cli.output import Form
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.client.jobs import ENDED
from lepton.errors import NotFound
from lepton.trainer.v1.job_pb2 import Job

_MOST_CURVES: Final = 24
"""Of so many running jobs at once the losses are followed."""
_POINTS: Final = 200
_TAIL: Final = 12
_FRAMES_A_SECOND: Final = 4


async def watch_one(shell: Shell, client: AsyncClient, name: str) -> Job | None:
    """Shows a job until it has ended; None when it was deleted before."""
    job: Job | None = None
    async with _view(shell, client, is_one=True) as view:
        async for job in client.jobs.watch(name):
            view.changed(job)
            if job.state in ENDED:
                await view.settled()
                return job
    return None


async def watch_all(shell: Shell, client: AsyncClient) -> None:
    """Shows all jobs of the project, for ever."""
    async with _view(shell, client, is_one=False) as view:
        async for change in client.jobs.watch_all():
            if change.is_deleted:
                view.deleted(change.resource.name)
            else:
                view.changed(change.resource)


class _Lines:
    """A line or a document for every change."""

    def __init__(self, shell: Shell) -> None:
        self._shell, self._said = shell, dict[str, tuple[str, int]]()

    def changed(self, job: Job) -> None:
        if not self._shell.printer.is_for_people:
            self._shell.printer.change(job, JOBS)
            return
        words, (before, count) = one_line(job, datetime.now(UTC)), self._said.get(job.name, ("", 0))
        if words != before:
            self._shell.printer.text(words)
        found = failures(job)
        # Of a job seen for the first time only the newest failure is news.
        for error in found[max(count, len(found) - 1) :]:
            self._shell.printer.text(f"  {failure_line(error)}")
            if error.advice:
                self._shell.printer.text(f"    advice: {error.advice}")
        if slow := straggler_line(job):
            self._shell.printer.text(f"  {slow}")
        self._said[job.name] = words, len(found)

    def deleted(self, name: str) -> None:
        if self._shell.printer.is_for_people:
            self._shell.printer.text(f"{name.rpartition('/')[2]}  deleted")
        elif self._shell.printer.form is not Form.NAME:
            self._shell.printer.document({"name": name, "deleted": True}, compact=True)

    async def settled(self) -> None:
        """Nothing is behind."""


class _Screen:
    """A table that moves; a task follows each job's measurements, and one the output of the only one."""

    def __init__(self, client: AsyncClient, board: Board, tasks: asyncio.TaskGroup, *, is_one: bool) -> None:
        self._client, self._board, self._tasks, self._is_one = client, board, tasks, is_one
        self._following: dict[str, list[asyncio.Task[None]]] = {}

    def changed(self, job: Job) -> None:
        self._board.put(job)
        if job.state in ENDED and not self._is_one:
            self._stop(job.name)
        elif job.name not in self._following and len(self._following) < _MOST_CURVES:
            self._following[job.name] = [self._tasks.create_task(self._measure(job.name))]
            if self._is_one:
                self._following[job.name].append(self._tasks.create_task(self._say(job.name)))

    def deleted(self, name: str) -> None:
        self._board.remove(name)
        self._stop(name)

    async def settled(self) -> None:
        """Returns when what the jobs have said last is on the board."""
        followers = [task for tasks in self._following.values() for task in tasks]
        if followers:
            await asyncio.wait(followers, timeout=5.0)

    def stop(self) -> None:
        for name in list(self._following):
            self._stop(name)

    def _stop(self, name: str) -> None:
        for task in self._following.pop(name, ()):
            task.cancel()

    async def _measure(self, name: str) -> None:
        with contextlib.suppress(NotFound):  # it was deleted
            async for point in self._client.jobs.metrics(name, follow=True, max_points=_POINTS):
                self._board.measure(name, point)

    async def _say(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            async for line in self._client.jobs.logs(name, follow=True, tail=_TAIL):
                self._board.say(line)


@contextlib.asynccontextmanager
async def _view(shell: Shell, client: AsyncClient, *, is_one: bool) -> AsyncGenerator[_Lines | _Screen, None]:
    if not shell.printer.is_live:
        yield _Lines(shell)
        return
    board = Board(is_one=is_one)
    console = shell.printer.console
    with Live(console=console, auto_refresh=False, vertical_overflow="visible" if is_one else "ellipsis") as live:
        async with asyncio.TaskGroup() as tasks:
            drawing = tasks.create_task(_draw(live, board))
            screen = _Screen(client, board, tasks, is_one=is_one)
            try:
                yield screen
            finally:
                screen.stop()
                drawing.cancel()
        live.update(board.draw(datetime.now(UTC), _room(live)), refresh=True)


async def _draw(live: Live, board: Board) -> None:
    while True:
        live.update(board.draw(datetime.now(UTC), _room(live)), refresh=True)
        await asyncio.sleep(1 / _FRAMES_A_SECOND)


def _room(live: Live) -> int:
    return max(live.console.size.height - 6, 4)
