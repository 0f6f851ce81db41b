"""A job's journal: what its ranks printed and measured, readable after the job and its nodes are gone."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from lepton.internal.v1.run_report_pb2 import RunEvent
from lepton.trainer.v1.trainer_service_pb2 import MetricPoint
from services.trainer.journal_file import JournalFile, Source
from services.trainer.journal_limits import Limits
from services.trainer.journal_lines import log_line, metric_point, written
from services.trainer.sequences import Sequences

_OPEN: Final = 256
_END: Final = 1 << 62  # behind every offset
_LOOK_S: Final = 0.5
"""How soon a reader sees what another process of the trainer has appended; of our own it is told at once."""

__all__ = ["Journal", "Journals", "Limits", "Source", "log_line", "metric_point"]


class Journal:
    """The journal of one job; any number of readers follow it."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self._file = JournalFile(path, limits or Limits())
        self._using = asyncio.Lock()
        self._grown = asyncio.Event()

    async def append(self, source: Source, events: Sequence[RunEvent]) -> int:
        """Stores those events that are new, on disk when it returns; the highest sequence among them all."""

        def make(stored: Sequences) -> Sequence[bytes]:
            fresh = {event.sequence: event for event in events if event.sequence not in stored}
            for event in fresh.values():
                if event.WhichOneof("event") == "pace":
                    stored.add(event.sequence)  # of use now or never: what it says is in the next measurement
            return [written(source, event) for event in fresh.values() if event.WhichOneof("event") != "pace"]

        async with self._using:
            await asyncio.to_thread(self._file.append, source, make)  # fsync blocks
        self._grown.set()
        self._grown = asyncio.Event()
        return max((event.sequence for event in events), default=0)

    async def read(self, offset: int) -> list[dict[str, Any]]:
        """The next lines after an offset, a page at the most, each with its `offset`."""
        async with self._using:
            return await asyncio.to_thread(self._file.read, offset)

    async def tail(self, count: int, offset: int, is_wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Where to begin to read the last `count` wanted lines of those behind an offset."""
        position = _END
        while True:
            async with self._using:
                page = await asyncio.to_thread(self._file.read_before, position)
            for line in reversed(page):
                if line["offset"] <= offset:
                    return offset
                count -= is_wanted(line)
                if not count:
                    return int(line["offset"]) - 1
            if not page:
                return offset
            position = page[0]["offset"]

    async def measured(self, offset: int) -> list[MetricPoint]:
        """Everything measured so far behind an offset."""
        points = []
        while page := await self.read(offset):
            offset = page[-1]["offset"]
            points += [point for point in map(metric_point, page) if point is not None]
        return points

    async def follow(self, offset: int, ended: asyncio.Event) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Pages of lines after an offset, until `ended` is set and everything has been read."""
        while True:
            was_ended, grown = ended.is_set(), self._grown
            if page := await self.read(offset):
                offset = page[-1]["offset"]
                yield page
            elif was_ended:
                return
            else:
                await _first(ended.wait(), grown.wait())

    async def failure_told(self, generation: int) -> None:
        """Returns once a rank of the generation has said how it failed: then its last lines are here too."""
        while True:
            grown = self._grown
            await self.read(0)  # sees what other processes have appended
            if generation in self._file.failed:
                return
            await _first(grown.wait())


class Journals:
    """The journals of all jobs, one file each; those used last stay open."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self._folder, self._limits = folder, limits or Limits()
        self._open: OrderedDict[str, Journal] = OrderedDict()

    def of(self, job_uid: str) -> Journal:
        """The journal of a job."""
        journal = self._open.get(job_uid)
        if journal is None:
            journal = self._open[job_uid] = Journal(self._path(job_uid), self._limits)
        self._open.move_to_end(job_uid)
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return journal

    def delete(self, job_uid: str) -> None:
        """Forgets a job's journal."""
        self._open.pop(job_uid, None)
        self._path(job_uid).unlink(missing_ok=True)

    def _path(self, job_uid: str) -> Path:
        return self._folder / f"{job_uid}.jsonl"


async def _first(*awaitables: Any) -> None:
    """Returns when one of them is done, or when it is time to look at the file again."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        await asyncio.wait(tasks, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
