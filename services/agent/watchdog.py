"""Watches one rank while it runs: its memory, and whether it gets on; one that does not is looked at and killed."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from chassis.logs import logger
from services.agent.cause import Stall
from services.agent.memory import MemoryWatch
from services.agent.output import Tail
from services.agent.stall import STACK_SIGNAL, WAITING_FACTOR, Progress, main_stack, waits

log = logger(__name__)

_TICK_S: Final = 1.0
_TICKS: Final = 8  # to a timeout that is shorter than so many seconds
_STACK_S: Final = 10.0  # for the stacks of a rank that is asked for them; milliseconds where the machine is not busy
_LOOK_S: Final = 0.05


class Watched(Protocol):
    """What the watchdog may do to a rank."""

    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...


class Watchdog:
    """One rank's."""

    def __init__(
        self,
        process: Watched,
        tail: Tail,
        *,
        timeout_s: float = 0.0,
        is_held_up: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress = Progress(timeout_s)
        self.memory = MemoryWatch(process.pid)
        self.stall: Stall | None = None
        """Why it was killed, once it was."""
        self._process, self._tail, self._now = process, tail, now
        self._is_held_up = is_held_up

    @property
    def now_s(self) -> float:
        """On the clock of the progress."""
        return self._now()

    async def watch(self) -> None:
        """Returns once it has killed the rank; cancelled when that ends by itself."""
        is_suspicious = False
        while True:
            await asyncio.sleep(min(_TICK_S, self.progress.patience_s / _TICKS))
            self.memory.look()
            if self._is_held_up():
                self.progress.said(self._now())
            stalled_s = self.progress.stalled_s(self._now())
            if not stalled_s:
                is_suspicious = False
                continue
            is_late = stalled_s >= self.progress.patience_s * (1 + WAITING_FACTOR)
            if is_suspicious and not is_late:
                continue  # it waits for another rank, whose own watchdog has the word first
            is_suspicious = True
            stall = await self._look(stalled_s)
            if not self.progress.stalled_s(self._now()) or (stall.waited and not is_late):
                continue
            self.stall = stall
            log.warning("rank hangs", pid=self._process.pid, step=stall.step, where=stall.where)
            self._process.kill()
            return

    async def _look(self, seconds: float) -> Stall:
        """Where the rank stands."""
        is_stopped = _state(self._process.pid) in ("T", "t")
        frames = () if is_stopped else await self._stack()
        waited = waits(frames)
        if is_stopped:
            where = "its process is stopped by a signal"
        elif frames:
            where = f"it {'waits for other ranks' if waited else 'stands'} in {frames[0]}"
        else:
            where = "it does not say where it stands"
        return Stall(seconds=seconds, step=self.progress.step, where=where, waited=waited)

    async def _stack(self) -> Sequence[str]:
        """The frames of its main thread, innermost first; none when it cannot or does not answer."""
        pid = self._process.pid
        if not catches(pid, STACK_SIGNAL):
            return ()
        with self._tail.heard() as lines:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, STACK_SIGNAL)
            seen = -1
            for _ in range(round(_STACK_S / _LOOK_S)):
                await asyncio.sleep(_LOOK_S)
                frames = main_stack(list(lines))
                if frames and len(lines) == seen:  # nothing more comes
                    return frames
                seen = len(lines)
            return main_stack(list(lines))


def catches(pid: int, number: int) -> bool:
    """Whether a process does something of its own on a signal; false when it is gone."""
    caught = next((line.split()[1] for line in _status(pid) if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def _state(pid: int) -> str:
    return next((line.split()[1] for line in _status(pid) if line.startswith("State:")), "")


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
