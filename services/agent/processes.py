"""Processes of our own: started without a shell, tied to the agent's life, with pipes and a line for reports."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from chassis.logs import logger
from lepton.errors import Unavailable
from services.agent import warden
from services.agent.futures import fail, settle
from services.agent.launcher import Exit
from services.agent.pipes import Feed, pipe
from services.agent.process import Process

log = logger(__name__)
_GRACE_S: Final = 5.0


class Tasks(Protocol):
    """Who is told what becomes of tasks."""

    def began(self, task: str) -> None:
        """Its process runs."""
        ...

    def ended(self, task: str, ended: Exit | None, words: str, *, has_files: bool) -> None:
        """Its process has ended; None = it was never started, and the words say why, if it was not killed before."""
        ...

    def lost(self) -> None:
        """The warden has died, and with it all of them."""
        ...


class CannotRun(Exception):
    """There is no such command, or it cannot be executed."""


class Warden:
    """The agent's warden: one process that starts all others. When it dies, so do they; the next start gets another."""

    def __init__(self, environ: Mapping[str, str], *, python: str = sys.executable) -> None:
        self._environment = {name: environ[name] for name in ("PATH", "HOME", "LANG") if name in environ}
        self._python = python
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._opening = asyncio.Lock()
        self._started: dict[str, asyncio.Future[int]] = {}
        self._exits: dict[str, tuple[int, asyncio.Future[Exit]]] = {}
        self._tasks: Tasks | None = None
        self._task_pids: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lose()  # it kills everything and leaves
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), _GRACE_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def start(self, name: str, argv: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> Process:
        """Start a command in a folder with exactly this environment, plus LEPTON_REPORT_FD and the warden's mark.

        `name` must be unique for all time. CannotRun when the command does not exist.
        """
        await self._open()
        with ExitStack() as theirs, ExitStack() as undo:
            stdout, stderr = pipe(undo, theirs), pipe(undo, theirs)
            ours, end = socket.socketpair()
            theirs.callback(end.close)
            undo.callback(ours.close)
            ours.setblocking(False)
            reports = Feed(ours.fileno())
            undo.callback(reports.close)
            order = {"start": name, "argv": list(argv), "env": dict(environment), "folder": str(folder)}
            pid, exited = await self._ask(name, order, (stdout[1], stderr[1], end.fileno()))
            return Process(
                pid=pid,
                stdout=stdout[0],
                stderr=stderr[0],
                exited=exited,
                _reports=reports.reader,
                _answers=ours,
                _kill=lambda number: self._order({"kill": name, "signal": int(number)}),
                _files=undo.pop_all(),
            )

    async def start_tasks(
        self,
        tasks: Sequence[tuple[str, Mapping[str, str]]],
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        root: Path,
        listener: Tasks,
    ) -> None:
        """Start a command many times: each task has a name that is unique for all time, and variables of its own."""
        await self._open()
        self._tasks = listener
        self._order({"tasks": tasks, "argv": list(argv), "env": dict(environment), "root": str(root)})

    def kill_tasks(self, tasks: Sequence[str], number: int) -> None:
        """Signal the groups of these tasks; those that have not begun never will."""
        if self._control is not None:
            self._order({"kill_tasks": list(tasks), "signal": int(number)})

    async def _open(self) -> None:
        async with self._opening:
            if self._control is not None:
                return
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * warden.MAX_PACKET)
                number = theirs.fileno()
                self._process = await asyncio.create_subprocess_exec(
                    *(self._python, "-I", "-S", warden.__file__, str(os.getpid()), str(number)),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(number,),
                    start_new_session=True,
                    cwd="/",
                    env=self._environment,
                )
            ours.setblocking(False)
            self._control = ours
            loop.add_reader(ours.fileno(), self._receive)

    async def _ask(self, name: str, order: Mapping[str, Any], files: Sequence[int]) -> tuple[int, asyncio.Future[Exit]]:
        """The process's id, and how it ends: it may have ended before anybody here is told that it has begun."""
        loop = asyncio.get_running_loop()
        started: asyncio.Future[int] = loop.create_future()
        exited: asyncio.Future[Exit] = loop.create_future()
        self._started[name], self._exits[name] = started, (0, exited)
        try:
            self._order(order, files)
            pid = await asyncio.shield(started)
        except asyncio.CancelledError:
            started.add_done_callback(lambda _: self._kill_unwanted(name))
            raise
        except BaseException:
            self._started.pop(name, None)
            self._exits.pop(name, None)
            raise
        return pid, exited

    def _kill_unwanted(self, name: str) -> None:
        with contextlib.suppress(Unavailable):  # it is dead then
            self._order({"kill": name, "signal": int(signal.SIGKILL)})

    def _order(self, order: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        if self._control is None:
            raise Unavailable("LAUNCHER_LOST")
        data = json.dumps(order, separators=(",", ":")).encode()
        if len(data) > warden.MAX_PACKET:
            raise CannotRun("its arguments and its environment are too long")
        # The warden answers each order at once: its socket is full only when it is stuck, and waiting would not help.
        socket.send_fds(self._control, [data], list(files)) if files else self._control.send(data)

    def _receive(self) -> None:
        while self._control is not None:
            try:
                data = self._control.recv(warden.MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                log.error("the warden has died, and with it all processes")
                self._lose()
                return
            self._hear(json.loads(data))

    def _hear(self, said: Mapping[str, Any]) -> None:
        if "started" in said:
            name = said["started"]
            self._exits[name] = (said["pid"], self._exits[name][1])
            settle(self._started.pop(name, None), said["pid"])
        elif "failed" in said:
            fail(self._started.pop(said["failed"], None), CannotRun(said["why"]))
            self._exits.pop(said["failed"], None)
        elif "began" in said:
            self._hear_of_tasks(said)
        else:
            code = os.waitstatus_to_exitcode(said["status"])
            settle(self._exits.pop(said["exit"])[1], Exit(code=code) if code >= 0 else Exit(signal=-code))

    def _hear_of_tasks(self, said: Mapping[str, Any]) -> None:
        assert self._tasks is not None
        for task, pid in said["began"]:
            self._task_pids[task] = pid
            self._tasks.began(task)
        for task, status, words, has_files in said["ended"]:
            self._task_pids.pop(task, None)
            code = None if status is None else os.waitstatus_to_exitcode(status)
            ended = None if code is None else Exit(code=code) if code >= 0 else Exit(signal=-code)
            self._tasks.ended(task, ended, words, has_files=has_files)

    def _lose(self) -> None:
        if self._control is None:
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        for started in self._started.values():
            fail(started, Unavailable("LAUNCHER_LOST"))
        self._started.clear()
        for pid, exited in self._exits.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if pid:
                    os.killpg(pid, signal.SIGKILL)
            settle(exited, Exit(signal=signal.SIGKILL))
        self._exits.clear()
        for pid in self._task_pids.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._task_pids.clear()
        if self._tasks is not None:
            self._tasks.lost()
