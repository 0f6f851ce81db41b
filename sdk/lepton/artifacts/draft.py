"""An artifact that is being written: its name, its digest, is known with its last byte; until then nobody sees it.

It grows in a file of its own, which its writer holds locked, and gets its name by a rename once it lies on the disk. So
a crash leaves the old state or the new one; what a dead writer has left is known by its lock being free.

Nothing here takes a lock of the process or starts a thread: a draft made before a fork may be written in the child.
"""

import fcntl
import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from lepton.artifacts.digest import Digest

PREFIX: Final = ".writing-"
_BLOCK: Final = 4 << 20


class Seal(Protocol):
    """Turns bytes into what is stored of them, piece by piece."""

    def update(self, data: memoryview) -> bytes | memoryview:
        """What can be stored by now."""
        ...

    def finish(self) -> bytes:
        """The rest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A finished draft: its digest, its size before encryption, and where it lies."""

    digest: Digest
    size: int
    path: str


class Draft:
    """An artifact in the making; `place` says where the finished one of a digest belongs."""

    def __init__(self, aside: Path, place: Callable[[Digest], Path], seal: Seal | None = None) -> None:
        self._aside, self._place, self._seal = aside, place, seal
        self._content = hashlib.sha256()  # made here: in a forked child nothing needs to be looked up
        self._size = 0
        self._path = aside
        self._file = -1

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends bytes. Raises OSError; the draft is then to be abandoned."""
        if self._file < 0:
            self._open()
        view = memoryview(data)
        for start in range(0, len(view), _BLOCK):
            block = view[start : start + _BLOCK]
            self._content.update(block)
            self._size += len(block)
            _write_all(self._file, block if self._seal is None else memoryview(self._seal.update(block)))

    def finish(self) -> Written:
        """Gives the artifact its name, once every byte is on the disk. Raises OSError."""
        self.write(b"")
        if self._seal is not None:
            _write_all(self._file, memoryview(self._seal.finish()))
        os.fsync(self._file)
        digest = Digest("sha256:" + self._content.hexdigest())
        target = self._place(digest)
        make_folder(target.parent)
        self._path.rename(target)
        sync_folder(target.parent)
        self._close()
        return Written(digest=digest, size=self._size, path=str(target))

    def abandon(self) -> None:
        """Removes what was written so far; does nothing after `finish`."""
        if self._file >= 0:
            try:
                self._path.unlink()
            finally:
                self._close()

    def _open(self) -> None:
        make_folder(self._aside)
        while True:
            path = self._aside / f"{PREFIX}{os.urandom(8).hex()}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:  # else a sweep came between the two
                self._path, self._file = path, file
                return
            os.close(file)

    def _close(self) -> None:
        file, self._file = self._file, -1
        os.close(file)


def sweep_drafts(aside: Path, older_than: float = math.inf) -> int:
    """Removes what dead writers have left in a folder of drafts since before `older_than`; how many files they were."""
    removed = 0
    try:
        entries = [Path(found) for found in os.scandir(aside) if _is_left(found, older_than)]
    except FileNotFoundError:
        return 0
    for path in entries:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed += 1
        except BlockingIOError:
            pass  # its writer lives
        finally:
            os.close(file)
    return removed


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, each of them durable."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        return
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _is_left(found: "os.DirEntry[str]", older_than: float) -> bool:
    return found.name.startswith(PREFIX) and found.stat().st_mtime < older_than


def _write_all(file: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(file, data) :]
