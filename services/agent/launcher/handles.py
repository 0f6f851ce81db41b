"""What the agent holds of what it started: a rank with its output, reports and end; a gang's store."""

import asyncio
import fcntl
import json
import signal
import struct
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended: by an exit code or by a signal; SIGKILL also when the launcher itself died."""

    code: int | None = None
    signal: int | None = None
    peak_bytes: int = field(default=0, compare=False)  # the most memory that it had resident; 0 = not known

    @property
    def is_success(self) -> bool:
        """Whether the program says that it did what it was for."""
        return self.code == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankHandle:
    """A running rank."""

    rank_id: str
    pid: int
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    exited: asyncio.Future[Exit]
    _reports: asyncio.StreamReader
    _answers: asyncio.StreamWriter
    _kill: Callable[[int], None]

    async def reports(self) -> AsyncIterator[Mapping[str, Any]]:
        """What the rank reports (the lines of lepton.train.reporter), until it ends, perhaps within a line."""
        while (line := await self._reports.readline()).endswith(b"\n"):
            yield json.loads(line)

    async def ack(self, commit_id: str) -> None:
        """Tells the rank that a commit counts."""
        await self._answer({"ack": commit_id})

    async def nack(self, commit_id: str, reason: str) -> None:
        """Tells the rank that a commit does not count, so that it ends."""
        await self._answer({"nack": commit_id, "reason": reason})

    async def stop(self, deadline_s: float) -> None:
        """Asks the rank to save its work and leave in time; its exit code is then lepton.train.EXIT_STOPPED."""
        await self._answer({"stop": True, "deadline_s": deadline_s})

    def unheard(self) -> int:
        """How many bytes of the answers the rank has not read; above zero for good when it does not listen at all."""
        end = self._answers.get_extra_info("socket")
        try:
            (unread,) = struct.unpack("i", fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, struct.pack("i", 0)))
        except (OSError, ValueError):
            return 0  # the rank has ended
        return int(unread)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the rank and everything that it started; too late is no error."""
        self._kill(number)

    async def _answer(self, line: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        with suppress(ConnectionError):  # the rank has ended; `exited` says how
            await self._answers.drain()

    def close(self) -> None:
        """Closes the agent's end of the reports."""
        self._answers.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHandle:
    """A gang's running store."""

    store_id: str
    pid: int
    endpoint: str  # host:port, to be MASTER_ADDR and MASTER_PORT
    exited: asyncio.Future[Exit]
    _kill: Callable[[int], None] = field(repr=False)

    def kill(self) -> None:
        """Ends the store."""
        self._kill(signal.SIGKILL)
