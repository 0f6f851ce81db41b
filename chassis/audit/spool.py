"""The spool: what was recorded and is not yet in the log, in files of this machine that survive the process."""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from chassis.audit.flusher import Flusher
from chassis.audit.frames import HEAD, Frame, Kind, frame, scan
from lepton.audit.record import Outcome
from lepton.internal.v1.audit_feed_pb2 import AuditEntry

SEGMENT_BYTES: Final = 4 << 20
_GROWTH: Final = 1536  # by how much an entry may grow from its begin to its end: a resource, a reason, numbers
_ID_BYTES: Final = 16


class SpoolFull(Exception):
    """There is no room for another record; the message says why."""


class SpoolInUse(LookupError):
    """Another process writes to the same folder."""


@dataclass(slots=True)
class Segment:
    """One file: whose entries it holds, up to which number, and what of it was handed over."""

    path: Path
    spool: str
    last: int = 0  # the newest number that was not acknowledged; 0 = nothing waits
    size: int = 0  # bytes that were written
    handed: int = 0  # position behind the last entry that was read


class Spool:
    """Appends entries and gives them back in order until they are acknowledged; its methods belong to one loop.

    Space is allocated before it is promised: once `begin` has returned, `end` finds room on the fullest disk.
    A process that dies leaves begins without ends; the next one ends them as INTERRUPTED.
    """

    def __init__(self, folder: Path, limit_bytes: int, sync: Callable[[int], None] = os.fdatasync) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._sync = sync
        self._id = secrets.token_hex(_ID_BYTES)
        self._number = 0
        self._newest = 0  # file
        self._ticket = secrets.randbits(63)
        self._open: dict[int, bytes] = {}  # begun and not ended
        self._reserved = 0
        self._segments: list[Segment] = []
        self._file = self._position = self._lock = -1
        self._flusher = Flusher(sync)

    @property
    def id(self) -> str:
        """Names this process's entries at auth."""
        return self._id

    @property
    def backlog(self) -> bool:
        """Whether there are entries that were not acknowledged yet."""
        return any(segment.last > 0 for segment in self._segments)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._flusher.close()
            raise SpoolInUse(f"another process uses the audit spool {self._folder}") from None
        self._recover()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            self._sync_last()
        if not self.backlog and not self._open:
            for segment in self._segments:
                segment.path.unlink(missing_ok=True)
        self._flusher.close()
        os.close(self._lock)

    def begin(self, entry: AuditEntry) -> int:
        """A call is about to be served: its ticket. Raises SpoolFull, and then nothing may be done."""
        payload = entry.SerializeToString()
        room = 2 * (HEAD.size + len(payload)) + _GROWTH
        self._make_room(room)
        ticket = self._ticket = self._ticket + 1
        self._write(frame(Kind.BEGIN, ticket, payload))
        self._open[ticket] = payload
        self._reserved += room
        return ticket

    def end(self, ticket: int, entry: AuditEntry) -> None:
        """How the call of a ticket ended."""
        self._release(ticket)
        self._append(ticket, entry)

    def drop(self, ticket: int) -> None:
        """The call of a ticket was recorded elsewhere, together with what it did."""
        self._release(ticket)
        self._write(frame(Kind.DROP, ticket))

    def add(self, entry: AuditEntry) -> None:
        """An entry that was not announced. Raises SpoolFull."""
        self._make_room(HEAD.size + entry.ByteSize() + 16)
        self._append(0, entry)

    def next_number(self) -> int:
        """The next number, for an entry that goes to auth without having been on disk."""
        self._number += 1
        return self._number

    async def durable(self) -> None:
        """Return when all that was written is on disk, in another file if need be. Raises OSError."""
        file = self._file
        try:
            await self._flusher.durable()
        except OSError:
            # After a failed fsync the kernel has forgotten what it could not write: never trust that file again.
            if self._file == file:
                self._abandon()
            await self._flusher.durable()

    def unsent(self, most: int) -> tuple[str, list[AuditEntry]]:
        """The next entries that were not read yet, of one spool; give their last number back to `acknowledge`."""
        for segment in self._segments:
            entries = list(_ends(segment, most))
            if entries:
                return segment.spool, entries
        return self._id, []

    def rewind(self) -> None:
        """Read again from the first entry that was not acknowledged."""
        for segment in self._segments:
            segment.handed = 0

    def acknowledge(self, spool: str, number: int) -> None:
        """Everything of a spool up to this number is in the log: files that hold nothing else are deleted."""
        active = self._segments[-1] if self._segments else None
        for segment in list(self._segments):
            if segment is not active and segment.spool == spool and segment.last <= number:
                self._segments.remove(segment)
                segment.path.unlink(missing_ok=True)
        if active is not None and active.spool == spool and active.last <= number:
            active.last = 0  # nothing in it waits

    def _recover(self) -> None:
        """Take over the files of earlier processes, and end what they had begun."""
        open_begins: dict[int, bytes] = {}
        for path in sorted(self._folder.glob("*.spool")):
            self._newest = int(path.stem)
            frames = list(scan(path.read_bytes()))
            if not frames or frames[0].kind is not Kind.SEGMENT:
                path.unlink()  # made, and never written to
                continue
            segment = Segment(path, frames[0].payload.decode(), size=frames[-1].end)
            for each in frames:
                if each.kind is Kind.BEGIN:
                    open_begins[each.ticket] = each.payload
                elif each.kind in (Kind.END, Kind.DROP):
                    open_begins.pop(each.ticket, None)
                if each.kind is Kind.END:
                    segment.last = AuditEntry.FromString(each.payload).number
            self._segments.append(segment)
        for ticket, payload in open_begins.items():
            entry = AuditEntry.FromString(payload)
            entry.outcome = Outcome.INTERRUPTED
            self._make_room(HEAD.size + len(payload) + 16)
            self._append(ticket, entry)
        if self._file >= 0:
            self._sync_last()
        for segment in [each for each in self._segments[:-1] if each.last == 0]:
            self._segments.remove(segment)  # only begins, which have been ended elsewhere
            segment.path.unlink()

    def _append(self, ticket: int, entry: AuditEntry) -> None:
        entry.number = self._number + 1
        self._write(frame(Kind.END, ticket, entry.SerializeToString()))
        self._number += 1
        self._segments[-1].last = self._number

    def _write(self, data: bytes) -> None:
        os.pwrite(self._file, data, self._position)
        self._position += len(data)
        self._segments[-1].size = self._position

    def _make_room(self, size: int) -> None:
        if self._file < 0 or self._position + self._reserved + size > SEGMENT_BYTES:
            self._rotate()
            if self._position + self._reserved + size > SEGMENT_BYTES:
                raise SpoolFull(f"{len(self._open)} calls are being served, more than a file has room for")

    def _rotate(self) -> None:
        """Begin the next file; begins that still wait for their end move along, so that the old one can go."""
        if (len(self._segments) + 1) * SEGMENT_BYTES > self._limit:
            raise SpoolFull(f"{self._limit} bytes wait for auth already")
        self._newest += 1
        path = self._folder / f"{self._newest:012d}.spool"
        file = -1
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(file, 0, SEGMENT_BYTES)
            _sync_folder(self._folder)
            if self._file >= 0:
                self._sync(self._file)
        except OSError as error:
            if file >= 0:
                os.close(file)
                path.unlink(missing_ok=True)
            raise SpoolFull(f"{self._folder}: {error.strerror}") from error
        self._file, self._position = file, 0
        self._flusher.use(file)
        self._segments.append(Segment(path, self._id))
        self._write(frame(Kind.SEGMENT, 0, self._id.encode()))
        for ticket, payload in self._open.items():
            self._write(frame(Kind.BEGIN, ticket, payload))

    def _abandon(self) -> None:
        """Give the present file up: what it holds and was not acknowledged is written again, to another."""
        if self._file < 0:
            return
        segment = self._segments.pop()
        entries = [AuditEntry.FromString(each.payload) for each in _frames(segment, 0) if each.kind is Kind.END]
        self._file = -1
        try:
            self._rotate()
            for entry in entries:
                self._make_room(HEAD.size + entry.ByteSize() + 16)
                self._write(frame(Kind.END, 0, entry.SerializeToString()))
                self._segments[-1].last = entry.number
        except SpoolFull as error:
            self._segments.insert(max(0, len(self._segments) - (self._file >= 0)), segment)
            raise OSError(str(error)) from error
        segment.path.unlink(missing_ok=True)

    def _release(self, ticket: int) -> None:
        payload = self._open.pop(ticket)
        self._reserved -= 2 * (HEAD.size + len(payload)) + _GROWTH

    def _sync_last(self) -> None:
        try:
            self._sync(self._file)
        except OSError:
            return  # whoever waits for it hears of it from the flusher


def _ends(segment: Segment, most: int) -> Iterator[AuditEntry]:
    count = 0
    for each in _frames(segment, segment.handed):
        segment.handed = each.end
        if each.kind is Kind.END:
            yield AuditEntry.FromString(each.payload)
            count += 1
            if count == most:
                return


def _frames(segment: Segment, start: int) -> Iterator[Frame]:
    with segment.path.open("rb") as file:
        file.seek(start)
        data = file.read(segment.size - start)
    for each in scan(data):
        yield Frame(each.kind, each.ticket, each.payload, each.end + start)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
