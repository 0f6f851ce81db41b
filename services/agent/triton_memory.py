"""How much memory a server takes, and whether it has grown too far; the verdict is pure."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakLimit:
    """How far a server's memory may grow beyond what it took when it had proved its models."""

    growth_bytes: int = 1 << 30
    """0 = as far as it likes."""
    readings: int = 3
    """Readings in a row that must be above it: a large batch comes and goes, a leak stays."""
    min_age_s: float = 60.0
    """No server is replaced for its memory sooner, however fast it grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What is known of a server's memory so far."""

    limit: LeakLimit
    baseline_bytes: int
    started_s: float
    above: int = 0
    last_bytes: int = field(default=0)

    def read(self, memory_bytes: int, now_s: float) -> Self:
        """The same with one more reading."""
        is_above = memory_bytes - self.baseline_bytes > self.limit.growth_bytes > 0
        is_old = now_s - self.started_s >= self.limit.min_age_s
        return replace(self, above=self.above + 1 if is_above and is_old else 0, last_bytes=memory_bytes)

    @property
    def is_leak(self) -> bool:
        """Whether the server should be replaced."""
        return self.above >= self.limit.readings

    def __str__(self) -> str:
        grown, limit = (size >> 20 for size in (self.last_bytes - self.baseline_bytes, self.limit.growth_bytes))
        return f"its memory grew by {grown} MiB, more than {limit} MiB"


def group_memory(group: int) -> int:
    """Bytes of a process group: each page counted once, shared ones by equal parts (PSS)."""
    return sum(map(_memory, members(group)))


def members(group: int) -> Iterable[psutil.Process]:
    """The members of a process group that still run. One that is dead and not yet waited for is none of them.

    Whoever inherits an orphan may never wait for it, as the first process of most containers does not.
    """
    for pid in psutil.pids():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(pid) != group:  # tens of times cheaper than looking at each process
                continue
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _memory(process: psutil.Process) -> int:
    try:
        full: int = process.memory_full_info().pss
        return full
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        with contextlib.suppress(psutil.NoSuchProcess):
            rss: int = process.memory_info().rss
            return rss
        return 0
