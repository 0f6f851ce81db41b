"""The content-addressed artifact store: bytes kept under their own SHA-256, verified whenever they are read."""

import hashlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Final, NewType

import fsspec
from fsspec.implementations.local import LocalFileSystem

from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.names import ArtifactName, ProjectName

Digest = NewType("Digest", str)  # "sha256:" and 64 hexadecimal digits

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_BLOCK: Final = 1 << 20


def parse_digest(text: str, field: str = "digest") -> Digest:
    """The digest that `text` spells; InvalidArgument naming `field` when it spells none."""
    if _DIGEST.fullmatch(text) is None:
        raise InvalidArgument(
            "INVALID_FIELD", fields={field: "must be 'sha256:' followed by 64 lower-case hexadecimal digits"}
        )
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    """The digest under which `data` is stored."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


class ArtifactStore:
    """Artifacts of all projects below one fsspec URL, as `<url>/<project>/sha256/<ab>/<hex>`; safe for threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        filesystem, root = fsspec.core.url_to_fs(url)
        self._fs: Any = filesystem  # fsspec is untyped
        self._root: str = root.rstrip("/")
        self._is_local = isinstance(filesystem, LocalFileSystem)

    def put_bytes(self, project: str, data: bytes) -> Digest:
        """Stores `data`; storing what is there already changes nothing."""
        digest = digest_of(data)
        path = self._path(project, digest)
        if self._size(path) == len(data):
            return digest
        if self._is_local:
            _write_local(path, io.BytesIO(data))
        else:
            self._fs.pipe_file(path, data)
        return digest

    def put_file(self, project: str, source: Path) -> Digest:
        """Stores the file at `source`."""
        with source.open("rb") as file:
            digest = Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
            path = self._path(project, digest)
            if self._size(path) == source.stat().st_size:
                return digest
            file.seek(0)
            if self._is_local:
                _write_local(path, file)
            else:
                self._fs.put_file(str(source), path)
        return digest

    def read(self, project: str, digest: str) -> bytes:
        """The artifact's bytes; NotFound when absent, FailedPrecondition when they no longer match the digest."""
        path = self._path(project, digest)
        try:
            data = bytes(self._fs.cat_file(path))
        except FileNotFoundError as error:
            raise _not_found(project, digest) from error
        if digest_of(data) != digest:
            raise _corrupt(project, digest)
        return data

    def open(self, project: str, digest: str) -> BinaryIO:
        """The artifact as a file held in memory, verified before it is used; fetch_to is for large ones."""
        return io.BytesIO(self.read(project, digest))

    def fetch_to(self, project: str, digest: str, target: Path) -> None:
        """Copies the artifact to `target`, which appears whole and verified or not at all."""
        source = self._path(project, digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._fs.open(source, "rb") as file:
                _write_local(str(target), file, expected=digest, project=project)
        except FileNotFoundError as error:
            raise _not_found(project, digest) from error

    def exists(self, project: str, digest: str) -> bool:
        """Whether the artifact is stored."""
        return self._size(self._path(project, digest)) is not None

    def size(self, project: str, digest: str) -> int:
        """The artifact's size in bytes; NotFound when absent."""
        size = self._size(self._path(project, digest))
        if size is None:
            raise _not_found(project, digest)
        return size

    def _path(self, project: str, digest: str) -> str:
        hexadecimal = parse_digest(digest).removeprefix("sha256:")
        return f"{self._root}/{ProjectName(project=project).project}/sha256/{hexadecimal[:2]}/{hexadecimal}"

    def _size(self, path: str) -> int | None:
        try:
            return int(self._fs.size(path))
        except FileNotFoundError:
            return None


def _write_local(path: str, source: BinaryIO, *, expected: str = "", project: str = "") -> None:
    # Beside the target, flushed to the disk, then renamed: a crash leaves the old state or the new one, never half.
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            content = hashlib.sha256()
            while block := source.read(_BLOCK):
                content.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if expected and f"sha256:{content.hexdigest()}" != expected:
            raise _corrupt(project, expected)
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _not_found(project: str, digest: str) -> NotFound:
    return NotFound("ARTIFACT_NOT_FOUND", artifact=_name(project, digest))


def _corrupt(project: str, digest: str) -> FailedPrecondition:
    return FailedPrecondition("ARTIFACT_CORRUPT", artifact=_name(project, digest))


def _name(project: str, digest: str) -> str:
    return str(ArtifactName(project=project, artifact=digest.removeprefix("sha256:")))
