"""Bundles: a folder of code, or data, as one archive whose digest says what is in it and nothing else.

    from lepton import bundle

    code = bundle.of_code(Path("my-training"))
    print(code.summary())
    digest = code.write(Path("code.tar.gz"))

Equal folders give equal archives: members sorted by name, no times, no users, two modes. Code is compressed.
"""

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from lepton.artifacts import Digest
from lepton.bundle_ignore import Rules
from lepton.bundle_names import DATA_MARK, FILE, FOLDER, problem_of
from lepton.errors import InvalidArgument, NotFound

_LARGEST_SHOWN: Final = 5
_SEEN: Final = 4  # times as many as may be in it are looked at, to tell which is the largest
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What a bundle may hold at most."""

    files: int
    bytes: int
    file_bytes: int


CODE: Final = Caps(files=10_000, bytes=256 << 20, file_bytes=64 << 20)
"""Of code: what is larger is data, and given with --data."""
DATA: Final = Caps(files=1_000_000, bytes=4 << 30, file_bytes=4 << 30)
"""Of data: as much as one artifact may be by default."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Entry:
    """Something in a bundle."""

    name: str  # its path within the bundle, with `/`
    size: int = 0
    is_folder: bool = False
    is_executable: bool = False
    link: str = ""  # where a symbolic link points


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What will be in an archive, read from the disk when it is written."""

    root: Path
    entries: tuple[Entry, ...]  # sorted by name
    left_out: tuple[str, ...] = ()  # what the ignore rules kept away; folders stand for all that is in them
    mark: str = ""  # of data: FILE or FOLDER

    @property
    def files(self) -> tuple[Entry, ...]:
        """The files."""
        return tuple(entry for entry in self.entries if not entry.is_folder)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.entries)

    def summary(self) -> str:
        """What is in it, in a line."""
        out = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"{len(self.files)} files, {_size(self.size)}{out}"

    def listing(self) -> Iterator[str]:
        """What is in it, a line for each file, and what was left out."""
        for entry in self.files:
            points = f" -> {entry.link}" if entry.link else ""
            yield f"{_size(entry.size):>9}  {entry.name}{points}"
        for name in self.left_out:
            yield f"{'left out':>9}  {name}"

    def write(self, target: Path) -> Digest:
        """Write the archive and return its digest; equal contents give equal bytes."""
        with target.open("wb") as file:
            if self.mark:
                self._write_tar(file)
            else:
                # Without a name and a time in its header.
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed:
                    self._write_tar(cast("IO[bytes]", packed))
        with target.open("rb") as file:
            return Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())

    def _write_tar(self, file: IO[bytes]) -> None:
        marked = {DATA_MARK: self.mark} if self.mark else {}
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, pax_headers=marked) as archive:
            for entry in self.entries:
                info = tarfile.TarInfo(entry.name)
                info.mode = 0o755 if entry.is_folder or entry.is_executable else 0o644
                if entry.is_folder:
                    info.type = tarfile.DIRTYPE
                    archive.addfile(info)
                elif entry.link:
                    info.type, info.linkname = tarfile.SYMTYPE, entry.link
                    archive.addfile(info)
                else:
                    info.size = entry.size
                    with _opened(self.root / entry.name) as content:
                        archive.addfile(info, _Exactly(content, entry))


def of_code(folder: Path, *, caps: Caps = CODE) -> Bundle:
    """A folder of code without what its ignore files leave out (.leptonignore, else .gitignore; git's syntax).

    NotFound (FILE_NOT_FOUND); InvalidArgument: BUNDLE_TOO_LARGE naming the largest files, BUNDLE_FILE_REFUSED for links
    that lead out of the folder, devices, pipes, sockets, and names that not every node can hold.
    """
    return _collect(folder, Rules.of(folder) if folder.is_dir() else None, caps, "")


def of_data(path: Path, *, caps: Caps = DATA) -> Bundle:
    """Data of any kind: a file, or a folder with everything that is in it. Raises what `of_code` raises."""
    if path.is_file():
        entry = _file(path.name, path.stat())
        _check_name(entry.name, path)
        return _checked(Bundle(root=path.parent, entries=(entry,), mark=FILE), caps)
    return _collect(path, None, caps, FOLDER)


def _collect(folder: Path, rules: Rules | None, caps: Caps, mark: str) -> Bundle:
    if not folder.is_dir():
        raise NotFound("FILE_NOT_FOUND", file=str(folder))
    entries: list[Entry] = []
    left_out: list[str] = []
    _walk(folder.resolve(), "", rules, entries, left_out, _SEEN * caps.files)
    there = {entry.name for entry in entries} | {""}
    for entry in entries:
        if entry.link and _target(entry) not in there:
            raise _refused(folder / entry.name, f"is a link to {entry.link}, which is left out")
    bundle = Bundle(root=folder.resolve(), entries=tuple(sorted(entries)), left_out=tuple(sorted(left_out)), mark=mark)
    return _checked(bundle, caps)


def _walk(root: Path, folder: str, rules: Rules | None, entries: list[Entry], left_out: list[str], most: int) -> None:
    within = rules.within(root, folder) if rules is not None and folder else rules
    with os.scandir(root / folder) as found:
        for each in found:
            if len(entries) > most:
                return  # refused whatever else there is
            name = f"{folder}/{each.name}" if folder else each.name
            facts = each.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(facts.st_mode)
            if within is not None and within.leave_out(name, is_folder=is_folder):
                left_out.append(f"{name}/" if is_folder else name)
                continue
            _check_name(name, root / name)
            if is_folder:
                entries.append(Entry(name=name, is_folder=True))
                _walk(root, name, within, entries, left_out, most)
            elif stat.S_ISLNK(facts.st_mode):
                entries.append(Entry(name=name, link=_link(root, name)))
            elif stat.S_ISREG(facts.st_mode):
                entries.append(_file(name, facts))
            else:
                raise _refused(root / name, f"is {_kind(facts.st_mode)}")


def _file(name: str, facts: os.stat_result) -> Entry:
    return Entry(name=name, size=facts.st_size, is_executable=bool(facts.st_mode & stat.S_IXUSR))


def _link(root: Path, name: str) -> str:
    """Where a link leads, on the shortest way from its folder; refused when that is nowhere or outside."""
    path = root / name
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _refused(path, f"is a link to {str(path.readlink())!r}, which does not exist") from error
    if not target.is_relative_to(root):
        raise _refused(path, f"is a link that leaves the folder, to {str(path.readlink())!r}")
    return os.path.relpath(target, path.parent.resolve())


def _target(link: Entry) -> str:
    path = os.path.normpath(os.path.join(os.path.dirname(link.name), link.link))  # noqa: PTH118, PTH120  # of names
    return "" if path == "." else path


def _check_name(name: str, path: Path) -> None:
    if problem := problem_of(name):
        raise _refused(path, f"has a name that {problem}")


def _checked(bundle: Bundle, caps: Caps) -> Bundle:
    files = sorted(bundle.files, key=lambda entry: (-entry.size, entry.name))
    largest = ", ".join(f"{entry.name} ({_size(entry.size)})" for entry in files[:_LARGEST_SHOWN])
    problem = ""
    if len(files) > caps.files:
        problem = f"it holds {len(files)} files, and {caps.files} may be in one"
    elif files and files[0].size > caps.file_bytes:
        problem = f"{files[0].name} has {_size(files[0].size)}, and a file may have {_size(caps.file_bytes)}"
    elif bundle.size > caps.bytes:
        problem = f"it holds {_size(bundle.size)}, and {_size(caps.bytes)} may be in one"
    if problem:
        raise InvalidArgument("BUNDLE_TOO_LARGE", folder=str(bundle.root), problem=problem, largest=largest)
    return bundle


class _Exactly(io.RawIOBase):
    """A file's content, refused when there is less or more of it than was counted: it is being written to."""

    def __init__(self, file: IO[bytes], entry: Entry) -> None:
        self._file, self._entry, self._left = file, entry, entry.size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(_BLOCK, self._left) if size < 0 else min(size, self._left))
        self._left -= len(data)
        if (not data and self._left) or (not self._left and self._file.read(1)):
            raise _refused(Path(self._entry.name), "changed while it was read")
        return data


def _opened(path: Path) -> IO[bytes]:
    # Not through a link: since it was looked at, it may have become one.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _refused(path: Path, problem: str) -> InvalidArgument:
    shown = str(path).encode(errors="backslashreplace").decode()
    return InvalidArgument("BUNDLE_FILE_REFUSED", file=shown, problem=problem)


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _size(number: int) -> str:
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
