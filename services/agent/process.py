"""A running process as the agent holds it."""

import asyncio
import contextlib
import fcntl
import json
import signal
import socket
import struct
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from services.agent.launcher import Exit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Process:
    """A running process and all that it starts."""

    pid: int
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    exited: asyncio.Future[Exit]
    _reports: asyncio.StreamReader
    _answers: socket.socket
    _kill: Callable[[int], None]
    _files: ExitStack

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
        try:
            (unread,) = struct.unpack("i", fcntl.ioctl(self._answers.fileno(), termios.TIOCOUTQ, struct.pack("i", 0)))
        except (OSError, ValueError):
            return 0  # it has ended
        return int(unread)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send SIGTERM to its group, or with anything else kill it and all that it started; too late is no error."""
        if not self.exited.done():
            self._kill(signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)

    def close(self) -> None:
        """Close the agent's ends of its pipes and of the reports."""
        self._files.close()

    async def _answer(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with contextlib.suppress(ConnectionError):  # it has ended; `exited` says how
            await asyncio.get_running_loop().sock_sendall(self._answers, data)
