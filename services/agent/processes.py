"""Processes of our own: started without a shell, tied to the agent's life, with pipes and a line for reports."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.agent import warden
from services.agent.launcher import Exit

_LINE_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Process:
    """A running process and all that it starts."""

    pid: int  # of its warden
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    exited: asyncio.Future[Exit]
    _reports: asyncio.StreamReader
    _answers: asyncio.StreamWriter

    async def reports(self) -> AsyncIterator[Mapping[str, Any]]:
        """What it reports, until it closes its end."""
        while (line := await self._reports.readline()).endswith(b"\n"):
            yield json.loads(line)

    async def ack(self, commit_id: str) -> None:
        """Say that a commit counts."""
        await self._answer({"ack": commit_id})

    async def nack(self, commit_id: str, reason: str) -> None:
        """Say that a commit does not count."""
        await self._answer({"nack": commit_id, "reason": reason})

    async def stop(self, deadline_s: float) -> None:
        """Ask it to leave within the deadline."""
        await self._answer({"stop": True, "deadline_s": deadline_s})

    def unheard(self) -> int:
        """How many bytes of what it was told it has not read; above zero for good when it does not listen at all."""
        end = self._answers.get_extra_info("socket")
        try:
            (unread,) = struct.unpack("i", fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, struct.pack("i", 0)))
        except (OSError, ValueError):
            return 0  # it has ended
        return int(unread)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send SIGTERM to it, or with anything else kill it and all that it started; too late is no error."""
        if not self.exited.done():
            os.kill(self.pid, signal.SIGTERM if number == signal.SIGTERM else signal.SIGHUP)

    def close(self) -> None:
        """Close the agent's end of the reports."""
        self._answers.close()

    async def _answer(self, line: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # it has ended; `exited` says how
            await self._answers.drain()


async def start_process(argv: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> Process:
    """Start a command in a folder with exactly this environment, plus LEPTON_REPORT_FD."""
    ours, theirs = socket.socketpair()
    with theirs:
        reports, answers = await asyncio.open_unix_connection(sock=ours, limit=_LINE_LIMIT)
        number = theirs.fileno()
        try:
            started = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", warden.__file__, str(os.getpid())),
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**environment, "LEPTON_REPORT_FD": str(number)},
                cwd=folder,
                pass_fds=(number,),
                start_new_session=True,
                limit=_LINE_LIMIT,
            )
        except BaseException:
            answers.close()
            raise
    assert started.stdout is not None
    assert started.stderr is not None
    exited: asyncio.Future[Exit] = asyncio.ensure_future(_exit(started))
    return Process(
        pid=started.pid,
        stdout=started.stdout,
        stderr=started.stderr,
        exited=exited,
        _reports=reports,
        _answers=answers,
    )


async def _exit(process: asyncio.subprocess.Process) -> Exit:
    code = await process.wait()
    return Exit(code=code) if code >= 0 else Exit(signal=-code)
