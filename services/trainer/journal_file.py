"""The file of a journal: whole lines, appended under a lock, on disk before they are told; any process may read it.

A line's offset is that of the line before it and one, unless the line has an offset of its own (`at`). When the file
has grown too large it is written anew with fewer lines: it then begins with a header that says which round of that it
is, and what had been stored, so that what was dropped is not taken in again.
"""

import fcntl
import json
import os
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from chassis.logs import logger
from services.trainer.journal_limits import Limits, Part, part_of, shortened
from services.trainer.sequences import Sequences

log = logger(__name__)
_PAGE_LINES: Final = 500
_PAGE_BYTES: Final = 1 << 20  # an answer is 4 MiB at the most
_HEADER: Final = b'{"compacted":'
_DAMAGED: Final = {"generation": 0, "rank": 0, "kind": "damaged"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whose events they are: one rank of one generation."""

    generation: int
    rank: int


class JournalFile:
    """What is known of one file; its methods block, and are called one at a time.

    Several processes may append to the same file: each reads what the others have added before it relies on it.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self.failed: set[int] = set()
        """The generations of which a rank has said how it failed."""
        self._forget()

    def append(self, source: Source, make: Callable[[Sequences], Sequence[bytes]]) -> None:
        """Appends the lines that `make` gives, told what the source has stored already."""
        with self._locked() as file:
            self._catch_up(file)
            # A writer has died in the middle of a line: that was never acknowledged, and will come again.
            file.truncate(self._end)
            lines = make(self._stored[source])
            if not lines:
                return
            file.seek(0, os.SEEK_END)
            file.write(b"".join(lines))
            file.flush()
            os.fdatasync(file.fileno())
            self._take(lines)
            if self._limits.exceeded(self._sizes):
                self._compact(file)

    def read(self, offset: int) -> list[dict[str, Any]]:
        """The next lines after an offset, a page at the most, each with its `offset`; none when there is no more."""
        return self._page(lambda: bisect_right(self._offsets, offset))

    def read_before(self, offset: int) -> list[dict[str, Any]]:
        """The page of lines that ends just before an offset; none when there is nothing before it."""
        return self._page(lambda: bisect_right(self._offsets, offset - 1), is_before=True)

    @property
    def last(self) -> int:
        """The offset of the last line, as far as it was read; 0 when there is none."""
        return self._offsets[-1] if self._offsets else 0

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else self._begin

    def _forget(self) -> None:
        self._round = 0
        self._begin = 0  # behind the header
        self._ends, self._offsets = array("Q"), array("Q")  # of each line: the byte behind it, and its offset
        self._sizes = dict.fromkeys(Part, 0)
        self._stored: defaultdict[Source, Sequences] = defaultdict(Sequences)

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
                if os.fstat(file.fileno()).st_ino == self._inode():
                    yield file
                    return
            # Another process has put a shorter file in its place while we waited.

    def _inode(self) -> int:
        try:
            return self._path.stat().st_ino
        except FileNotFoundError:
            return -1

    def _page(self, place: Callable[[], int], *, is_before: bool = False) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                self._catch_up(file)
                at = place()
                first, behind = self._before(at) if is_before else self._behind(at)
                if first == behind:
                    return []
                begin = self._start(first)
                file.seek(begin)
                data = file.read(self._ends[behind - 1] - begin)
        except FileNotFoundError:
            return []
        lines = zip(_lines(data), self._offsets[first:behind], strict=True)
        return [{**_parsed(line), "offset": offset} for line, offset in lines]

    def _start(self, index: int) -> int:
        return self._ends[index - 1] if index else self._begin

    def _behind(self, at: int) -> tuple[int, int]:
        begin, upto = self._start(at), at
        while upto < min(len(self._ends), at + _PAGE_LINES) and (upto == at or self._ends[upto] - begin <= _PAGE_BYTES):
            upto += 1
        return at, upto

    def _before(self, at: int) -> tuple[int, int]:
        end, begin = self._start(at), at
        while begin > max(0, at - _PAGE_LINES) and (begin == at or end - self._start(begin - 1) <= _PAGE_BYTES):
            begin -= 1
        return begin, at

    def _catch_up(self, file: BinaryIO) -> None:
        """Reads what has come since, piece by piece; all of it again when the file is another than it was."""
        file.seek(0)
        start = file.read(len(_HEADER) + 20)
        number = int(start.removeprefix(_HEADER).partition(b",")[0]) if start.startswith(_HEADER) else 0
        if number != self._round or file.seek(0, os.SEEK_END) < self._end:
            self._forget()
        if number and not self._round:
            file.seek(0)
            text = file.readline()
            header = json.loads(text)
            self._round, self._begin = number, len(text)
            for generation, rank, runs in header["stored"]:
                self._stored[Source(generation=generation, rank=rank)].add_runs(runs)
            self.failed.update(header["failed"])
        file.seek(self._end)
        rest = b""
        while chunk := file.read(_PAGE_BYTES):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            self._take(_lines(whole + newline))

    def _take(self, lines: Iterable[bytes]) -> None:
        end, offset = self._end, self.last
        for line in lines:
            event = _parsed(line)
            end, offset = end + len(line), event.get("at", offset + 1)
            self._ends.append(end)
            self._offsets.append(offset)
            self._sizes[part_of(event)] += len(line)
            if "sequence" in event:
                self._stored[Source(generation=event["generation"], rank=event["rank"])].add(event["sequence"])
            if event.get("kind") == "failure":
                self.failed.add(event["generation"])

    def _compact(self, file: BinaryIO) -> None:
        """Puts a shorter file in the place of this one; leaves all as it is when the disk does not allow it."""
        file.seek(self._begin)
        data = _lines(file.read(self._end - self._begin))
        lines = [({**_parsed(line), "offset": at}, len(line)) for line, at in zip(data, self._offsets, strict=True)]
        stored = [[source.generation, source.rank, list(runs)] for source, runs in self._stored.items()]
        header = {"compacted": self._round + 1, "stored": stored, "failed": sorted(self.failed)}
        aside = self._path.with_suffix(".shorter")
        try:
            with aside.open("wb") as shorter:
                shorter.write(_rendered(header))
                shorter.writelines(_numbered(shortened(lines, self._limits)))
                shorter.flush()
                os.fsync(shorter.fileno())
            aside.rename(self._path)
        except OSError as error:
            log.warning("journal not shortened", journal=self._path.name, why=str(error))
            aside.unlink(missing_ok=True)
            return
        log.info("journal shortened", journal=self._path.name, bytes=sum(self._sizes.values()))
        with self._path.open("rb") as shorter:
            self._catch_up(shorter)


def _numbered(lines: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """The lines as they are written, each with its offset where it does not follow from the one before."""
    before = 0
    for line in lines:
        offset = line.pop("offset")
        line.pop("at", None)
        yield _rendered(line if offset == before + 1 else {**line, "at": offset})
        before = offset


def _parsed(line: bytes) -> dict[str, Any]:
    """What a line says; a line that a failing disk has damaged says nothing, but keeps its place."""
    try:
        event = json.loads(line)
    except ValueError:
        return dict(_DAMAGED)
    return event if isinstance(event, dict) and {"generation", "rank"} <= event.keys() else dict(_DAMAGED)


def _rendered(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _lines(data: bytes) -> list[bytes]:
    # Not splitlines: it also splits at carriage returns, which JSON escapes, but a reader should not have to know.
    return [line + b"\n" for line in data.split(b"\n")[:-1]]
