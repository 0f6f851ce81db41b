"""Where the bytes of artifacts lie: an interface, local folders, and whatever fsspec speaks to."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from lepton.artifacts.draft import PREFIX, make_folder, sync_folder

REMOVING: Final = ".removing-"
_BLOCK: Final = 1 << 20
_PART: Final = 16 << 20  # of an upload in parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A stored file: its path, its size, and when it was written, in seconds of the epoch."""

    path: str
    size: int
    modified: float


class Files(Protocol):
    """Files under paths, each of which appears whole or not at all."""

    def size(self, path: str) -> int | None:
        """Its bytes; None when there is none."""
        ...

    def open(self, path: str) -> BinaryIO:
        """For reading. Raises FileNotFoundError."""
        ...

    def write(self, path: str, source: BinaryIO) -> None:
        """Stores what `source` holds. Raises OSError, and then nothing is stored."""
        ...

    def listing(self, folder: str) -> Iterator[Listed]:
        """Every file below a folder."""
        ...

    def remove(self, path: str, older_than: float) -> bool:
        """Deletes a file unless it was written at `older_than` or later; whether it did."""
        ...

    def folders(self, above: str) -> list[str]:
        """The names of the folders right below one."""
        ...


class LocalFiles:
    """Files on this machine's disks, or on what is mounted there."""

    def size(self, path: str) -> int | None:
        """Its bytes."""
        try:
            return Path(path).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        """For reading."""
        return Path(path).open("rb")

    def write(self, path: str, source: BinaryIO) -> None:
        """Beside the target, flushed to the disk, then renamed: a crash leaves the old state or the new one."""
        folder = Path(path).parent
        make_folder(folder)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=PREFIX)
        try:
            with os.fdopen(descriptor, "wb") as file:
                while block := source.read(_BLOCK):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink()
            raise
        sync_folder(folder)

    def listing(self, folder: str) -> Iterator[Listed]:
        """Every file below a folder; those that vanish meanwhile are left out."""
        for above, _, names in os.walk(folder):
            for name in names:
                path = f"{above}/{name}"
                try:
                    found = Path(path).stat()
                except FileNotFoundError:
                    continue
                yield Listed(path=path, size=found.st_size, modified=found.st_mtime)

    def remove(self, path: str, older_than: float) -> bool:
        """Taken aside first, so that a writer who stores the same meanwhile is seen and gets it back."""
        file = Path(path)
        aside = file.with_name(f"{REMOVING}{file.name}")
        try:
            if file.stat().st_mtime >= older_than:
                return False
            file.rename(aside)
            if aside.stat().st_mtime >= older_than:
                aside.rename(file)  # equal bytes, whichever of the two stays
                return False
            aside.unlink()
        except FileNotFoundError:
            return False
        return True

    def folders(self, above: str) -> list[str]:
        """The names of the folders right below one."""
        try:
            return sorted(entry.name for entry in os.scandir(above) if entry.is_dir())
        except FileNotFoundError:
            return []


class FsspecFiles:
    """Files of any filesystem that fsspec knows; object stores show a file once its upload is complete."""

    def __init__(self, filesystem: Any) -> None:
        self._fs = filesystem  # fsspec is untyped

    def size(self, path: str) -> int | None:
        """Its bytes."""
        try:
            return int(self._fs.size(path))
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        """For reading."""
        file: BinaryIO = self._fs.open(path, "rb")
        return file

    def write(self, path: str, source: BinaryIO) -> None:
        """In parts where it is large; the object appears with the last one."""
        with tempfile.NamedTemporaryFile() as spool:
            name = getattr(source, "name", None)
            if not isinstance(name, str) or source.tell() != 0:
                while block := source.read(_BLOCK):
                    spool.write(block)
                spool.flush()
                name = spool.name
            self._fs.put_file(name, path, chunksize=_PART)

    def listing(self, folder: str) -> Iterator[Listed]:
        """Every object below a folder."""
        for path, info in self._fs.find(folder, detail=True).items():
            modified = info.get("LastModified") or info.get("created") or info.get("mtime")
            stamp = modified.timestamp() if hasattr(modified, "timestamp") else float(modified or 0.0)
            yield Listed(path=path, size=int(info["size"]), modified=stamp)

    def remove(self, path: str, older_than: float) -> bool:
        """Looked at once more just before: object stores know no conditional delete that all of them keep."""
        try:
            if self._fs.modified(path).timestamp() >= older_than:
                return False
            self._fs.rm_file(path)
        except FileNotFoundError:
            return False
        return True

    def folders(self, above: str) -> list[str]:
        """The names of the folders right below one."""
        try:
            found = self._fs.ls(above, detail=True)
        except FileNotFoundError:
            return []
        return sorted(each["name"].rstrip("/").rpartition("/")[2] for each in found if each["type"] == "directory")
