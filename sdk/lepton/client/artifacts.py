"""`client.artifacts`: bytes by their digest, sent in chunks and verified on the way back."""

import asyncio
import fcntl
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import BinaryIO, Final

from lepton.artifacts import Digest, digest_of, parse_digest
from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.patience import is_passing
from lepton.client.scope import Scope
from lepton.errors import Aborted, Cancelled, DeadlineExceeded, FailedPrecondition, LeptonError, NotFound, Unimplemented
from lepton.names import ArtifactName
from lepton.trainer.v1 import artifact_service_pb2 as pb
from lepton.trainer.v1.artifact_service_pb2_grpc import ArtifactServiceStub

_CHUNK: Final = 1 << 20
Progress = Callable[[int, int], None]
_STORED_S: Final = 600.0


class Artifacts(Group):
    """Uploads and downloads artifacts. One is named by its digest (`sha256:..`) or its whole name."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = ArtifactServiceStub(calls.channel("trainer"))

    async def upload(
        self, content: bytes | Path, *, project: str | None = None, progress: Progress | None = None
    ) -> pb.Artifact:
        """Store bytes, or a file's; what is there already is not sent again, whoever has sent it.

        A large one goes on from the byte that it broke at, also when an earlier run of the program was cut off.
        `progress` is told the bytes that are there and how many there will be.
        """
        parent = self._scope.parent(project)
        digest = digest_of(content) if isinstance(content, bytes) else await asyncio.to_thread(_digest_of_file, content)
        size = await _size(content)
        if size > _CHUNK:  # less than that is sent sooner than it is asked for
            try:
                return await self._send(parent, digest, content, size, progress or (lambda _done, _all: None))
            except Unimplemented:  # a trainer of the release before
                with suppress(NotFound):
                    return await self.get(digest, project=project)
        return await self._calls.attempt(
            lambda: self._stub.UploadArtifact(_requests(parent, digest, content, 0, 0), timeout=_STORED_S)
        )

    async def _send(
        self, parent: str, digest: Digest, content: bytes | Path, size: int, progress: Progress
    ) -> pb.Artifact:
        patience = self._calls.patience()
        committed = -1
        while True:
            upload = await self._calls.unary(self._stub.GetUpload, pb.GetUploadRequest(parent=parent, digest=digest))
            progress(upload.committed_bytes, size)
            if upload.done:
                return await self.get(digest, project=parent)
            if upload.committed_bytes > committed:
                patience.progress()
            committed = upload.committed_bytes
            requests = _requests(parent, digest, content, size, committed, progress)
            try:
                await self._calls.signed_in.ready()
                return await self._stub.UploadArtifact(requests, timeout=_STORED_S)
            except LeptonError as error:
                if not (is_passing(error) or isinstance(error, Aborted | Cancelled | DeadlineExceeded)):
                    raise
                await patience.bear(error)

    async def get(self, artifact: str, *, project: str | None = None) -> pb.Artifact:
        """Whether an artifact is there, and its size. NotFound."""
        request = pb.GetArtifactRequest(name=self._name(artifact, project))
        return await self._calls.unary(self._stub.GetArtifact, request)

    async def download(self, artifact: str, *, project: str | None = None) -> bytes:
        """An artifact's bytes. NotFound; FailedPrecondition when they are not those of the digest."""
        data = bytearray()

        async def keep(chunk: bytes) -> None:
            data.extend(chunk)

        await self._download(self._name(artifact, project), keep)
        return bytes(data)

    async def download_to(
        self, artifact: str, path: Path, *, project: str | None = None, progress: Progress | None = None
    ) -> None:
        """An artifact's bytes into a file, which appears whole and verified or not at all.

        What has come is kept beside it under the artifact's digest, so a program that was cut off goes on from there.
        """
        name = self._name(artifact, project)
        digest = name.rpartition("/")[2]
        with await asyncio.to_thread(_beside, path, digest) as file:
            try:
                content = await asyncio.to_thread(_hash_of, file)

                async def keep(chunk: bytes) -> None:
                    content.update(chunk)
                    await asyncio.to_thread(file.write, chunk)  # a disk may be slow
                    if progress is not None:
                        progress(file.tell(), size)

                size = (await self.get(name)).size_bytes
                await self._fetch(name, file.tell(), keep)
                if content.hexdigest() != digest:
                    raise FailedPrecondition("ARTIFACT_CORRUPT", artifact=name)
                await asyncio.to_thread(file.flush)
                await asyncio.to_thread(Path(file.name).rename, path)
            except (FailedPrecondition, NotFound):
                os.unlink(file.name)  # noqa: PTH108 - at once: a cancelled task must not wait for a thread
                raise

    async def _download(self, name: str, keep: Callable[[bytes], Awaitable[None]]) -> None:
        digest, content = name.rpartition("/")[2], hashlib.sha256()

        async def hashed(chunk: bytes) -> None:
            content.update(chunk)
            await keep(chunk)

        await self._fetch(name, 0, hashed)
        if content.hexdigest() != digest:
            raise FailedPrecondition("ARTIFACT_CORRUPT", artifact=name)

    async def _fetch(self, name: str, offset: int, keep: Callable[[bytes], Awaitable[None]]) -> None:
        async with aclosing(self._chunks(name, offset)) as chunks:
            async for chunk in chunks:
                await keep(chunk)

    async def _chunks(self, name: str, offset: int) -> AsyncGenerator[bytes, None]:
        answers = self._calls.stream(
            lambda: self._stub.DownloadArtifact(pb.DownloadArtifactRequest(name=name, offset=offset))
        )
        async with aclosing(answers):
            async for answer in answers:
                offset += len(answer.data)
                yield answer.data

    def _name(self, artifact: str, project: str | None) -> str:
        if "/" in artifact:
            return str(ArtifactName.parse(artifact))
        digest = parse_digest(artifact if artifact.startswith("sha256:") else f"sha256:{artifact}", "artifact")
        return f"{self._scope.parent(project)}/artifacts/{digest.removeprefix('sha256:')}"


async def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else (await asyncio.to_thread(content.stat)).st_size


async def _requests(
    parent: str, digest: Digest, content: bytes | Path, size: int, offset: int, progress: Progress | None = None
) -> AsyncIterator[pb.UploadArtifactRequest]:
    yield pb.UploadArtifactRequest(parent=parent, digest=digest, size_bytes=size, offset=offset)
    if isinstance(content, bytes):
        for begin in range(offset, len(content), _CHUNK):
            yield pb.UploadArtifactRequest(data=content[begin : begin + _CHUNK])
        return
    file = await asyncio.to_thread(content.open, "rb")
    with file:
        file.seek(offset)
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield pb.UploadArtifactRequest(data=chunk)
            offset += len(chunk)
            if progress is not None:
                progress(offset, size)


def is_file_of(path: Path, digest: str) -> bool:
    """Whether a file is there and has the bytes of a digest."""
    return path.is_file() and _digest_of_file(path) == digest


def _digest_of_file(path: Path) -> Digest:
    with path.open("rb") as file:
        return Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())


def _beside(path: Path, digest: str) -> BinaryIO:
    """The file in which what has come of a download is kept; another one while somebody else is writing that."""
    file = path.with_name(f".downloading-{digest}").open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".downloading-")
        os.close(descriptor)
        return Path(name).open("a+b")
    return file


def _hash_of(file: BinaryIO) -> "hashlib._Hash":
    """The digest of what is in a file so far; leaves it at its end."""
    content = hashlib.sha256()
    file.seek(0)
    while block := file.read(_CHUNK):
        content.update(block)
    return content
