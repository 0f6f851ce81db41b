"""The artifact store itself: artifacts of all projects below one URL, read only when they match their digest."""

import hashlib
import io
import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from lepton.artifacts.digest import Digest, digest_of, parse_digest
from lepton.artifacts.draft import Draft, Written, sweep_drafts
from lepton.artifacts.files import REMOVING, Files, FsspecFiles, Listed, LocalFiles
from lepton.artifacts.keys import Keyring, RotatingKeyProvider
from lepton.artifacts.location import Location
from lepton.artifacts.rewrapping import beside, read_beside, read_header, rewrap
from lepton.artifacts.sealing import Cipher, Ciphers, Opening, plain_size
from lepton.artifacts.verified import is_intact
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.names import ArtifactName, ProjectName

CHECKPOINTS: Final = "checkpoints"
"""The area of what ranks store: apart from all else, so that what is deleted there was nothing else."""

UPLOADS: Final = "uploads"
"""The area of the parts of uploads that are not finished: no artifact of the project is ever read from it."""

_AREAS: Final = ("", CHECKPOINTS)
_BLOCK: Final = 1 << 20
_SEALED: Final = ".sealed"


class ArtifactStore:
    """Artifacts under one URL; safe for threads. With ciphers, of its URL's key file or given ones, all is sealed."""

    def __init__(self, url: str, ciphers: Ciphers | None = None) -> None:
        self.url = url
        location = Location.parse(url)
        if ciphers is None and location.key_file is not None:
            ciphers = Cipher(Keyring(location.key_file))
        if ciphers is None and location.has_project_keys:
            problem = "ends in '#keys=project': only services and agents are given those; name a key file instead"
            raise InvalidArgument("INVALID_FIELD", fields={"artifacts": problem})
        self._ciphers = ciphers
        filesystem, root = _filesystem(location)
        self._root: str = root.rstrip("/")
        self.is_local = isinstance(filesystem, LocalFileSystem)
        self._files: Files = LocalFiles() if self.is_local else FsspecFiles(filesystem)

    def put_bytes(self, project: str, data: bytes, *, area: str = "") -> Digest:
        """Stores `data`; storing what is there already changes nothing."""
        digest = digest_of(data)
        self._put(project, self._path(project, digest, area), io.BytesIO(data), len(data), is_refreshed=bool(area))
        return digest

    def put_file(self, project: str, source: Path, *, area: str = "") -> Digest:
        """Stores the file at `source`."""
        with source.open("rb") as file:
            digest = Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
            file.seek(0)
            size = source.stat().st_size
            self._put(project, self._path(project, digest, area), file, size, is_refreshed=bool(area))
        return digest

    def read(self, project: str, digest: str) -> bytes:
        """The artifact's bytes; NotFound when absent, FailedPrecondition when they no longer match the digest."""
        with self._opened(project, digest) as blocks:
            data = b"".join(blocks)
        if digest_of(data) != digest:
            raise _corrupt(project, digest)
        return data

    def head(self, project: str, digest: str, most: int) -> bytes:
        """The first bytes, at most so many, not verified: to look at, not to use. Raises NotFound."""
        found = bytearray()
        with self._opened(project, digest) as blocks:
            for block in blocks:
                found += block
                if len(found) >= most:
                    break
        return bytes(found[:most])

    def read_part(self, project: str, digest: str) -> bytes:
        """A part of an upload, verified. Raises NotFound, FailedPrecondition."""
        with self._opened(project, digest, (UPLOADS,)) as blocks:
            data = b"".join(blocks)
        if digest_of(data) != digest:
            raise _corrupt(project, digest)
        return data

    def open(self, project: str, digest: str) -> BinaryIO:
        """The artifact as a file held in memory, verified before it is used; fetch_to is for large ones."""
        return io.BytesIO(self.read(project, digest))

    def fetch_to(self, project: str, digest: str, target: Path) -> None:
        """Copies the artifact to `target`, which appears whole and verified or not at all."""
        draft = Draft(target.parent, lambda _: target)
        content = hashlib.sha256()
        try:
            with self._opened(project, digest) as blocks:
                for block in blocks:
                    content.update(block)
                    draft.write(block)
            if f"sha256:{content.hexdigest()}" != digest:
                raise _corrupt(project, digest)
            draft.finish()
        finally:
            draft.abandon()

    def mapped(self, project: str, digest: str) -> memoryview:
        """The artifact's bytes, verified (once a node where it is local), in memory only as far as they are touched.

        The view is writable, and what is written into it stays in this process.
        """
        path = self._find(project, digest)
        if self.is_local and not path.endswith(_SEALED):
            with Path(path).open("rb") as file:
                if not is_intact(file.fileno(), digest):
                    raise _corrupt(project, digest)
                if os.fstat(file.fileno()).st_size == 0:
                    return memoryview(bytearray())
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        return memoryview(bytearray(self.read(project, digest)))

    def verify(self, project: str, digest: str) -> None:
        """Raises NotFound or FailedPrecondition unless the artifact is there and whole."""
        path = self._find(project, digest)
        if self.is_local and not path.endswith(_SEALED):
            with Path(path).open("rb") as file:
                if not is_intact(file.fileno(), digest):
                    raise _corrupt(project, digest)
            return
        content = hashlib.sha256()
        with self._opened(project, digest) as blocks:
            for block in blocks:
                content.update(block)
        if f"sha256:{content.hexdigest()}" != digest:
            raise _corrupt(project, digest)

    def exists(self, project: str, digest: str) -> bool:
        """Whether the artifact is stored."""
        return self._sized(project, digest) is not None

    def size(self, project: str, digest: str) -> int:
        """The artifact's size in bytes; NotFound when absent."""
        size = self._sized(project, digest)
        if size is None:
            raise _not_found(project, digest)
        return size

    def draft(self, project: str, *, area: str) -> Draft:
        """An artifact to be written piece by piece; `publish` makes a finished one part of the store."""
        seal = None if self._ciphers is None else self._ciphers.of(project).seal()
        if self.is_local:
            return Draft(self._drafts(project, area), lambda digest: Path(self._path(project, digest, area)), seal)
        spool = _spool()
        return Draft(spool, lambda digest: spool / f"{digest.removeprefix('sha256:')}-{os.getpid()}", seal)

    def publish(self, project: str, written: Written, *, area: str) -> None:
        """Moves a finished draft to where the store is, if it is not there already."""
        if self.is_local:
            return
        try:
            with Path(written.path).open("rb") as file:
                self._files.write(self._path(project, written.digest, area), file)
        finally:
            Path(written.path).unlink(missing_ok=True)

    def sweep(self, project: str, *, area: str, older_than: float = math.inf) -> int:
        """Removes what dead writers and removers have left (since before `older_than`); how many files they were."""
        if not self.is_local:
            return sweep_drafts(_spool(), older_than)
        left = (
            found
            for found in self._files.listing(self._folder(project, area))
            if Path(found.path).name.startswith(REMOVING)
        )
        return sweep_drafts(self._drafts(project, area), older_than) + sum(
            self._files.remove(found.path, older_than) for found in left
        )

    def projects(self) -> list[str]:
        """The projects that have artifacts."""
        return self._files.folders(self._root)

    def listing(self, project: str, *, area: str) -> Iterator[tuple[Digest, Listed]]:
        """Every artifact of an area."""
        for found in self._files.listing(self._folder(project, area)):
            name = found.path.rpartition("/")[2].removesuffix(_SEALED)
            if len(name) == 64:
                yield parse_digest(f"sha256:{name}"), found

    def remove(self, listed: Listed, *, older_than: float) -> bool:
        """Deletes a listed artifact unless it was stored (again) at `older_than` or later; whether it did."""
        artifact_id = self._artifact_id(listed.path)
        is_gone = self._files.remove(listed.path, older_than)
        if is_gone and artifact_id:
            self._files.remove(beside(listed.path, artifact_id), math.inf)
        return is_gone

    def rewrap(self, project: str, listed: Listed) -> bool:
        """Whether a listed artifact is now sealed by the project's current key; its bytes are not written again.

        False for what is not sealed, is of the first format, or has lost its key. Raises FailedPrecondition.
        """
        keys = self._ciphers.of(project).keys if self._ciphers is not None else None
        if not isinstance(keys, RotatingKeyProvider) or not listed.path.endswith(_SEALED):
            return False
        return rewrap(self._files, listed.path, keys, is_local=self.is_local)

    def _put(self, project: str, path: str, source: BinaryIO, size: int, *, is_refreshed: bool) -> None:
        if not is_refreshed and self._plain(path) == size:
            return
        if self._ciphers is None:
            self._files.write(path, source)
            return
        seal = self._ciphers.of(project).seal()
        with tempfile.SpooledTemporaryFile(max_size=64 << 20) as sealed:
            while block := source.read(_BLOCK):
                sealed.write(seal.update(memoryview(block)))
            sealed.write(seal.finish())
            sealed.seek(0)
            self._files.write(path, sealed)  # type: ignore[arg-type]  # it is a BinaryIO in all but name

    def _opened(self, project: str, digest: str, areas: tuple[str, ...] = _AREAS) -> "_Blocks":
        path = self._find(project, digest, areas)
        if not path.endswith(_SEALED):
            return _Blocks(self._files.open(path), None)
        if self._ciphers is None:
            raise FailedPrecondition("ARTIFACT_SEALED", artifact=_name(project, digest))
        cipher, files = self._ciphers.of(project), self._files
        return _Blocks(files.open(path), cipher.unseal(lambda artifact_id: read_beside(files, path, artifact_id)))

    def _artifact_id(self, path: str) -> bytes:
        """The id of a sealed artifact; empty for what has none or is gone."""
        if not path.endswith(_SEALED):
            return b""
        try:
            return read_header(self._files, path).artifact_id
        except (FileNotFoundError, FailedPrecondition):
            return b""

    def _find(self, project: str, digest: str, areas: tuple[str, ...] = _AREAS) -> str:
        for path in self._places(project, digest, areas):
            if self._files.size(path) is not None:
                return path
        raise _not_found(project, digest)

    def _sized(self, project: str, digest: str) -> int | None:
        return next((size for path in self._places(project, digest) if (size := self._plain(path)) is not None), None)

    def _plain(self, path: str) -> int | None:
        stored = self._files.size(path)
        return plain_size(stored) if stored is not None and path.endswith(_SEALED) else stored

    def _places(self, project: str, digest: str, areas: tuple[str, ...] = _AREAS) -> Iterator[str]:
        """Where an artifact may lie: sealed or not, as the store was set up when it was stored."""
        for area in areas:
            plain = self._path(project, digest, area, is_sealed=False)
            yield from (f"{plain}{_SEALED}", plain) if self._ciphers is not None else (plain, f"{plain}{_SEALED}")

    def _path(self, project: str, digest: str, area: str, *, is_sealed: bool | None = None) -> str:
        hexadecimal = parse_digest(digest).removeprefix("sha256:")
        suffix = _SEALED if (self._ciphers is not None if is_sealed is None else is_sealed) else ""
        return f"{self._folder(project, area)}/{hexadecimal[:2]}/{hexadecimal}{suffix}"

    def _folder(self, project: str, area: str) -> str:
        within = f"{area}/sha256" if area else "sha256"
        return f"{self._root}/{ProjectName(project=project).project}/{within}"

    def _drafts(self, project: str, area: str) -> Path:
        return Path(self._folder(project, area), "drafts")


class _Blocks:
    """The plain bytes of an open artifact, block by block."""

    def __init__(self, file: BinaryIO, opening: Opening | None) -> None:
        self._file, self._opening = file, opening

    def __enter__(self) -> Iterator[bytes]:
        return self._plain() if self._opening is None else self._unsealed(self._opening)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _plain(self) -> Iterator[bytes]:
        while block := self._file.read(_BLOCK):
            yield block

    def _unsealed(self, opening: Opening) -> Iterator[bytes]:
        for block in self._plain():
            yield opening.update(block)
        yield opening.finish()


def _spool() -> Path:
    """The folder of drafts that are to be sent elsewhere."""
    return Path(tempfile.gettempdir(), f"lepton-spool-{os.getuid()}")


def _filesystem(location: Location) -> tuple[Any, str]:
    try:
        filesystem, root = fsspec.core.url_to_fs(location.url, **location.options)
    except ImportError as error:
        raise FailedPrecondition("EXTRA_MISSING", package="s3fs", extra="s3") from error
    return filesystem, root


def _not_found(project: str, digest: str) -> NotFound:
    return NotFound("ARTIFACT_NOT_FOUND", artifact=_name(project, digest))


def _corrupt(project: str, digest: str) -> FailedPrecondition:
    return FailedPrecondition("ARTIFACT_CORRUPT", artifact=_name(project, digest))


def _name(project: str, digest: str) -> str:
    return str(ArtifactName(project=project, artifact=digest.removeprefix("sha256:")))
