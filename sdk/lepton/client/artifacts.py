"""`client.artifacts`: bytes by their digest, sent in chunks and verified on the way back."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final

from lepton.artifacts import Digest, digest_of, parse_digest
from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.scope import Scope
from lepton.errors import FailedPrecondition, NotFound
from lepton.names import ArtifactName
from lepton.trainer.v1 import artifact_service_pb2 as pb
from lepton.trainer.v1.artifact_service_pb2_grpc import ArtifactServiceStub

_CHUNK: Final = 1 << 20
_STORED_S: Final = 600.0


class Artifacts(Group):
    """Uploads and downloads artifacts. One is named by its digest (`sha256:..`) or its whole name."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = ArtifactServiceStub(calls.channel("trainer"))

    async def upload(self, content: bytes | Path, *, project: str | None = None) -> pb.Artifact:
        """Store bytes, or a file's; what is large and there already is not sent again."""
        parent = self._scope.parent(project)
        digest = digest_of(content) if isinstance(content, bytes) else await asyncio.to_thread(_digest_of_file, content)
        if await _size(content) > _CHUNK:  # less than that is sent sooner than it is asked for
            with suppress(NotFound):
                return await self.get(digest, project=project)
        return await self._calls.attempt(
            lambda: self._stub.UploadArtifact(_requests(parent, digest, content), timeout=_STORED_S)
        )

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

    async def download_to(self, artifact: str, path: Path, *, project: str | None = None) -> None:
        """An artifact's bytes into a file, which appears whole and verified or not at all."""
        name = self._name(artifact, project)
        descriptor, aside = await asyncio.to_thread(tempfile.mkstemp, dir=path.parent, prefix=".downloading-")
        try:
            with os.fdopen(descriptor, "wb") as file:

                async def keep(chunk: bytes) -> None:
                    await asyncio.to_thread(file.write, chunk)  # a disk may be slow

                await self._download(name, keep)
            await asyncio.to_thread(Path(aside).rename, path)
        except BaseException:
            os.unlink(aside)  # noqa: PTH108 - at once: a cancelled task must not wait for a thread
            raise

    async def _download(self, name: str, keep: Callable[[bytes], Awaitable[None]]) -> None:
        digest, content = name.rpartition("/")[2], hashlib.sha256()
        async with aclosing(self._chunks(name)) as chunks:
            async for chunk in chunks:
                content.update(chunk)
                await keep(chunk)
        if content.hexdigest() != digest:
            raise FailedPrecondition("ARTIFACT_CORRUPT", artifact=name)

    async def _chunks(self, name: str) -> AsyncGenerator[bytes, None]:
        offset = 0
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


async def _requests(parent: str, digest: Digest, content: bytes | Path) -> AsyncIterator[pb.UploadArtifactRequest]:
    first = pb.UploadArtifactRequest(parent=parent, digest=digest)
    yield first
    if isinstance(content, bytes):
        for begin in range(0, len(content), _CHUNK):
            yield pb.UploadArtifactRequest(data=content[begin : begin + _CHUNK])
        return
    file = await asyncio.to_thread(content.open, "rb")
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield pb.UploadArtifactRequest(data=chunk)


def _digest_of_file(path: Path) -> Digest:
    with path.open("rb") as file:
        return Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
