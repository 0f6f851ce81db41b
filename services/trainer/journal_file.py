"""The file of a journal: whole lines, appended under a lock, on disk before they are told; any process may read it."""

import fcntl
import json
import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from services.trainer.sequences import Sequences

_PAGE_LINES: Final = 500
_PAGE_BYTES: Final = 1 << 20  # an answer is 4 MiB at the most


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whose events they are: one rank of one generation."""

    generation: int
    rank: int


class JournalFile:
    """What is known of one file; its methods block, and are called one at a time.

    Several processes may append to the same file: each reads what the others have added before it relies on it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ends = array("Q")
        """Byte position behind each line; a line's offset is its index + 1."""
        self._stored: defaultdict[Source, Sequences] = defaultdict(Sequences)
        self.failed: set[int] = set()
        """The generations of which a rank has said how it failed."""

    def append(self, source: Source, make: Callable[[Sequences], Sequence[bytes]]) -> None:
        """Appends the lines that `make` gives, told what the source has stored already."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            self._catch_up(file)
            end = self.ends[-1] if self.ends else 0
            # A writer has died in the middle of a line: that was never acknowledged, and will come again.
            file.truncate(end)
            lines = make(self._stored[source])
            if lines:
                file.seek(0, os.SEEK_END)
                file.write(b"".join(lines))
                file.flush()
                os.fdatasync(file.fileno())
                self._take(lines)

    def read(self, offset: int) -> list[dict[str, Any]]:
        """The next lines after an offset, a page at the most, each with its `offset`; none when there is no more."""
        try:
            with self._path.open("rb") as file:
                self._catch_up(file)
                if offset >= len(self.ends):
                    return []
                begin = self.ends[offset - 1] if offset else 0
                upto = offset + 1
                while upto < min(len(self.ends), offset + _PAGE_LINES) and self.ends[upto] - begin <= _PAGE_BYTES:
                    upto += 1
                file.seek(begin)
                data = file.read(self.ends[upto - 1] - begin)
        except FileNotFoundError:
            return []
        return [{**json.loads(line), "offset": offset + at + 1} for at, line in enumerate(_lines(data))]

    def _catch_up(self, file: BinaryIO) -> None:
        end = self.ends[-1] if self.ends else 0
        file.seek(end)
        data = file.read()
        self._take(_lines(data[: data.rfind(b"\n") + 1]))

    def _take(self, lines: Sequence[bytes]) -> None:
        end = self.ends[-1] if self.ends else 0
        for line in lines:
            end += len(line)
            self.ends.append(end)
            event = json.loads(line)
            self._stored[Source(generation=event["generation"], rank=event["rank"])].add(event["sequence"])
            if event.get("kind") == "failure":
                self.failed.add(event["generation"])


def _lines(data: bytes) -> list[bytes]:
    # Not splitlines: it also splits at carriage returns, which JSON escapes, but a reader should not have to know.
    return [line + b"\n" for line in data.split(b"\n")[:-1]]
