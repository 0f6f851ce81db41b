"""Archives from users, unpacked so that nothing in them can reach outside their folder, fill the disk or gain rights.

Nothing is left to `tarfile`'s own extraction: its filters were got round more than once (CVE-2025-4517, -4330, -4138).
Members are read as a stream; folders and files are made here, as new ones, with plain modes; symbolic links come last,
when nothing is written any more, and only those that lead to a folder or file of the archive on a way without links.
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from lepton.bundle_names import DATA_MARK, FILE, link_target, problem_of
from lepton.errors import InvalidArgument

_GZIP: Final = b"\x1f\x8b"
_BLOCK: Final = 1 << 20
_LARGEST_HEADER: Final = 1 << 20  # of a name or of extended attributes, which are held in memory
_UNREADABLE: Final = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    ValueError,
    FileExistsError,
    RecursionError,
)
_RATIO_FREE: Final = 64 << 20  # bytes that may come of however little


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What an archive may hold at most."""

    entries: int
    bytes: int
    ratio: int = 200  # bytes unpacked for a byte packed


CODE: Final = Caps(entries=20_000, bytes=2 << 30)
DATA: Final = Caps(entries=2_000_000, bytes=1 << 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What was unpacked."""

    bytes: int
    entries: int
    single: str = ""  # the name of the only file, where the archive is that of a file


class _Refused(Exception):
    """What an archive is refused for; never leaves this module."""


class _Member(tarfile.TarInfo):
    """A member whose headers cannot fill the memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        # "This is the place to override": called before a header's content is read into memory.
        if self.size < 0 or (not self.isreg() and self.size > _LARGEST_HEADER):
            raise _Refused(f"has a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Meter:
    """A stream that ends in a refusal once it brings more than is allowed."""

    def __init__(self, stream: IO[bytes], packed_bytes: int, caps: Caps, is_over: Callable[[], bool]) -> None:
        self._stream, self._read, self._is_over = stream, 0, is_over
        # Headers are part of the stream: two blocks for a member, and more for long names.
        self._most = caps.bytes + 4096 * caps.entries
        self._most_packed = max(_RATIO_FREE, packed_bytes * caps.ratio)
        self._caps = caps

    def read(self, size: int) -> bytes:
        if self._is_over():
            raise _Refused("is not wanted any more")
        data = self._stream.read(size)
        self._read += len(data)
        if self._read > self._most:
            raise _Refused(f"unpacks to more than {self._caps.bytes} bytes")
        if self._read > self._most_packed:
            raise _Refused(f"unpacks to more than {self._caps.ratio} times its own size")
        return data


def unpack(archive: Path, folder: Path, caps: Caps = CODE, *, is_over: Callable[[], bool] = lambda: False) -> Unpacked:
    """Unpack a tar archive, gzipped or not, into a folder that is new and empty.

    InvalidArgument when it is not an archive, holds too much, or holds what no bundle has a use for; also when
    `is_over`, asked again and again, says that nobody waits for it any more.
    """
    with archive.open("rb") as packed:
        is_gzip = packed.read(2) == _GZIP
        packed.seek(0)
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=packed)) if is_gzip else packed
        metered = cast("IO[bytes]", _Meter(stream, archive.stat().st_size, caps, is_over))
        try:
            with tarfile.open(fileobj=metered, mode="r|", tarinfo=_Member) as members:
                return _Unpacking(folder, caps).run(members)
        except _Refused as refused:
            raise InvalidArgument("BUNDLE_INVALID", problem=str(refused)) from refused
        except _UNREADABLE as error:
            raise InvalidArgument("BUNDLE_INVALID", problem=f"{type(error).__name__}: {error}") from error


def is_data(archive: Path) -> bool:
    """Whether a file is an archive of data as the SDK makes it; any other file is data as it is."""
    try:
        with archive.open("rb") as packed:
            if packed.read(512)[257:262] != b"ustar":
                return False
            packed.seek(0)
            metered = cast("IO[bytes]", _Meter(packed, archive.stat().st_size, DATA, lambda: False))
            with tarfile.open(fileobj=metered, mode="r|", tarinfo=_Member) as members:
                return DATA_MARK in members.pax_headers
    except (_Refused, *_UNREADABLE):
        return False


def entry_point(folder: Path, name: str) -> Path:
    """The script of a bundle; InvalidArgument when it is not a file within it."""
    return _within(folder, name, Path.is_file, "code.entry_point", "file")


def requirements_file(folder: Path, name: str) -> Path:
    """The list of what a bundle needs; InvalidArgument when it is not a file within it."""
    return _within(folder, name, Path.is_file, "code.requirements", "file")


def working_directory(folder: Path, name: str) -> Path:
    """Where a bundle's program runs; InvalidArgument when it is not a folder within it."""
    return _within(folder, name, Path.is_dir, "code.working_directory", "folder") if name else folder


class _Unpacking:
    """One archive on its way to the disk."""

    def __init__(self, folder: Path, caps: Caps) -> None:
        self._folder, self._caps = folder, caps
        self._folders: set[str] = {""}
        self._files: set[str] = set()
        self._links: dict[str, str] = {}
        self._bytes = self._entries = 0

    def run(self, members: tarfile.TarFile) -> Unpacked:
        for member in members:
            self._entries += 1
            if self._entries > self._caps.entries:
                raise _Refused(f"holds more than {self._caps.entries} entries")
            self._take(members, member)
        for name, target in self._links.items():
            self._check_link(name, target)
        for name, target in self._links.items():
            (self._folder / name).symlink_to(target)
        single = next(iter(self._files)) if members.pax_headers.get(DATA_MARK) == FILE and self._files else ""
        return Unpacked(bytes=self._bytes, entries=self._entries, single=single)

    def _take(self, members: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member.name.rstrip("/").removeprefix("./")
        if member.isdir() and name in ("", "."):
            return
        if problem := problem_of(name):
            raise _Refused(f"the name {name[:200]!r} {problem}")
        if name in self._files or name in self._links or (name in self._folders and not member.isdir()):
            raise _Refused(f"{name!r} is there twice")
        self._make_folder(str(PurePosixPath(name).parent))
        if member.isdir():
            self._make_folder(name)
        elif member.issym():
            self._links[name] = member.linkname
        elif member.isreg() and not member.issparse():
            self._files.add(name)
            self._write(members, member, name)
        else:
            raise _Refused(f"{name!r} is {_kind(member)}; only files, folders and symbolic links may be in it")

    def _make_folder(self, name: str) -> None:
        parts = PurePosixPath(name).parts if name != "." else ()
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path in self._files or path in self._links:
                raise _Refused(f"{path!r} is a folder and something else too")
            if path not in self._folders:
                (self._folder / path).mkdir(mode=0o755)
                self._folders.add(path)

    def _write(self, members: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        self._bytes += member.size
        if self._bytes > self._caps.bytes:
            raise _Refused(f"unpacks to more than {self._caps.bytes} bytes")
        content = members.extractfile(member)
        assert content is not None  # a regular file has content
        mode = 0o755 if member.mode & 0o100 else 0o644  # never more: no set-uid, no writing for others
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._folder / name, flags, mode), "wb") as file:
            while block := content.read(_BLOCK):
                file.write(block)
            if file.tell() != member.size:
                raise _Refused(f"{name!r} is cut off")

    def _check_link(self, name: str, target: str) -> None:
        where = link_target(name, target)
        if where is None or "\0" in target:
            raise _Refused(f"the symbolic link {name!r} leads out of it, to {target[:200]!r}")
        if self._passes_link(name, target) or (where not in self._files and where not in self._folders):
            raise _Refused(f"the symbolic link {name!r} leads to no file or folder of it but to {target[:200]!r}")

    def _passes_link(self, name: str, target: str) -> bool:
        """Whether the way passes anything but folders: `..` after a link would mean another place than it says."""
        place = list(PurePosixPath(name).parent.parts)
        for part in target.split("/"):
            if part in ("", "."):
                continue
            if "/".join(place) not in self._folders:
                return True
            if part == "..":
                place.pop()
            else:
                place.append(part)
        return False


def _within(folder: Path, name: str, is_right: Callable[[Path], bool], field: str, kind: str) -> Path:
    path = folder / PurePosixPath(name)
    if not path.resolve().is_relative_to(folder.resolve()) or not is_right(path):
        raise InvalidArgument("INVALID_FIELD", fields={field: f"{name!r} is not a {kind} of the bundle"})
    return path


def _kind(member: tarfile.TarInfo) -> str:
    kinds = {
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a named pipe",
    }
    return kinds.get(member.type, "a sparse file" if member.issparse() else "of an unknown kind")
