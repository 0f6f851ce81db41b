"""A job's journal: what its ranks printed and measured, readable after the job and its nodes are gone."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.internal.v1.run_report_pb2 import RunEvent
from lepton.trainer.v1.trainer_service_pb2 import LogLine, MetricPoint

_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whose events they are: one rank of one generation."""

    generation: int
    rank: int


@dataclass(slots=True)
class _Loaded:
    ends: list[int]
    """Byte position behind each line; a line's offset is its index + 1."""
    last: dict[Source, int]
    """The highest sequence stored from each source."""


class Journal:
    """The journal of one job. One process writes it; any number of readers follow it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded: _Loaded | None = None
        self._grown = asyncio.Condition()
        self._writing = asyncio.Lock()

    async def append(self, source: Source, events: Sequence[RunEvent]) -> int:
        """Stores the events that are new, on disk when it returns; the highest sequence stored."""
        async with self._writing:
            loaded = await self._load()
            last = loaded.last.get(source, 0)
            fresh = [event for event in events if event.sequence > last]
            lines = [_line(source, event) for event in fresh]
            if lines:
                await asyncio.to_thread(_write, self._path, lines)  # fsync blocks
                end = loaded.ends[-1] if loaded.ends else 0
                for line in lines:
                    end += len(line)
                    loaded.ends.append(end)
                last = loaded.last[source] = fresh[-1].sequence
        async with self._grown:
            self._grown.notify_all()
        return last

    async def read(self, offset: int) -> list[dict[str, Any]]:
        """The next lines after an offset, a page at the most, each with its `offset`."""
        loaded = await self._load()
        known = len(loaded.ends)
        upto = min(known, offset + _PAGE)
        if offset >= upto:
            return []
        begin = loaded.ends[offset - 1] if offset else 0
        data = await asyncio.to_thread(_read, self._path, begin, loaded.ends[upto - 1])
        return [{**json.loads(line), "offset": offset + index + 1} for index, line in enumerate(data.splitlines())]

    async def follow(self, offset: int, ended: asyncio.Event) -> AsyncIterator[list[dict[str, Any]]]:
        """Pages of lines after an offset, until `ended` is set and everything has been read."""
        while True:
            was_ended = ended.is_set()
            if page := await self.read(offset):
                offset = page[-1]["offset"]
                yield page
            elif was_ended:
                return
            else:
                await self._wait_for_more(offset, ended)

    async def _wait_for_more(self, offset: int, ended: asyncio.Event) -> None:
        async def grown() -> None:
            async with self._grown:
                await self._grown.wait_for(lambda: self._loaded is not None and len(self._loaded.ends) > offset)

        waits = [asyncio.ensure_future(grown()), asyncio.ensure_future(ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _load(self) -> _Loaded:
        if self._loaded is None:
            self._loaded = await asyncio.to_thread(_scan, self._path)
        return self._loaded


class Journals:
    """The journals of all jobs, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Journal] = {}

    def of(self, job_uid: str) -> Journal:
        """The journal of a job."""
        if job_uid not in self._open:
            self._open[job_uid] = Journal(self._folder / f"{job_uid}.jsonl")
        return self._open[job_uid]

    def delete(self, job_uid: str) -> None:
        """Forgets a job's journal."""
        self._open.pop(job_uid, None)
        (self._folder / f"{job_uid}.jsonl").unlink(missing_ok=True)


def log_line(line: dict[str, Any]) -> LogLine | None:
    """A line as output of a rank; None when it is something else."""
    if "text" not in line:
        return None
    return LogLine(
        offset=line["offset"],
        rank=line["rank"],
        generation=line["generation"],
        is_stderr=line.get("stderr", False),
        text=line["text"],
        time=_stamp(line["time"]),
    )


def metric_point(line: dict[str, Any]) -> MetricPoint | None:
    """A line as a measurement; None when it is something else."""
    if "values" not in line:
        return None
    return MetricPoint(
        offset=line["offset"],
        step=line["step"],
        epoch=line["epoch"],
        generation=line["generation"],
        values=line["values"],
        time=_stamp(line["time"]),
    )


def _line(source: Source, event: RunEvent) -> bytes:
    kind = event.WhichOneof("event")
    body: dict[str, Any] = {}
    if kind == "output":
        body = {"text": event.output.text}
        if event.output.is_stderr:
            body["stderr"] = True
    elif kind == "measurement":
        measured = event.measurement
        body = {"step": measured.step, "epoch": measured.epoch, "values": dict(measured.values)}
    elif kind is not None:
        body = {"kind": kind}
    head = {
        "generation": source.generation,
        "rank": source.rank,
        "sequence": event.sequence,
        "time": event.time.ToMicroseconds(),
    }
    return json.dumps({**head, **body}, separators=(",", ":")).encode() + b"\n"


def _scan(path: Path) -> _Loaded:
    loaded = _Loaded(ends=[], last={})
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return loaded
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        # The process died while it wrote: the half line was never acknowledged and will come again.
        os.truncate(path, len(whole))
    end = 0
    for line in whole.splitlines(keepends=True):
        end += len(line)
        loaded.ends.append(end)
        event = json.loads(line)
        loaded.last[Source(generation=event["generation"], rank=event["rank"])] = event["sequence"]
    return loaded


def _write(path: Path, lines: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(lines))
        file.flush()
        os.fdatasync(file.fileno())


def _read(path: Path, begin: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(end - begin)


def _stamp(microseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(microseconds)
    return stamp
