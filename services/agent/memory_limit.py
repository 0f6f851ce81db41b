"""Holds a rank to its memory where no cgroup does: looks at what it and its children use, ends it beyond that."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NoReturn

from chassis.logs import logger
from services.agent.process_tree import tree

log = logger(__name__)

_EVERY_S: Final = 1.0
_GIB: Final = 1 << 30
_KIB: Final = 1024


class MemoryExceeded(Exception):
    """A rank uses more than it was given."""

    def __init__(self, used_bytes: int, most_bytes: int) -> None:
        self.used_bytes, self.most_bytes = used_bytes, most_bytes
        super().__init__(
            f"MemoryError: Cannot allocate memory beyond the {most_bytes / _GIB:.2f} GiB of this worker: it used "
            f"{used_bytes / _GIB:.2f} GiB and was ended; ask for more with --memory, or use smaller batches"
        )


async def hold(pid: int, most_bytes: int, exceeded: Callable[[MemoryExceeded], None]) -> NoReturn:
    """Look again and again; call `exceeded` once a process with its descendants uses more; runs until cancelled."""
    is_told = False
    while True:
        await asyncio.sleep(_EVERY_S)
        used = used_bytes(tree(pid))
        if used > most_bytes and not is_told:
            is_told = True
            log.warning("rank uses more memory than it asked for", pid=pid, used_bytes=used, most_bytes=most_bytes)
            exceeded(MemoryExceeded(used, most_bytes))


def used_bytes(pids: Iterable[int]) -> int:
    """What processes use of the machine's memory: their own pages, and shared memory once; not the files that they map.

    Pages that a rank still shares with the launcher count as its own.
    """
    own = shared = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    own += int(line.split()[1]) * _KIB
                elif line.startswith("RssShmem:"):
                    shared = max(shared, int(line.split()[1]) * _KIB)
    return own + shared
