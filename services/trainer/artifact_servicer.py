"""Uploads and downloads of artifacts: chunked, resumable, checked by digest, limited."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from chassis.artifacts import ArtifactStore
from lepton.errors import InvalidArgument
from lepton.names import ArtifactName, ProjectName
from lepton.trainer.v1.artifact_service_pb2 import (
    Artifact,
    DownloadArtifactRequest,
    DownloadArtifactResponse,
    GetArtifactRequest,
    GetUploadRequest,
    Upload,
    UploadArtifactRequest,
)
from lepton.trainer.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from services.trainer.transfer_limits import TransferLimits
from services.trainer.uploads import Uploads

_CHUNK: Final = 256 * 1024


class ArtifactServicer(ArtifactServiceServicer):
    """Moves artifacts in and out of a project's store."""

    def __init__(self, artifacts: ArtifactStore, uploads: Uploads, limits: TransferLimits) -> None:
        self._artifacts, self._uploads, self._limits = artifacts, uploads, limits

    async def UploadArtifact(self, request_iterator: AsyncIterator[UploadArtifactRequest], context: Any) -> Artifact:
        """Stores what is sent if it is what was announced."""
        with tempfile.TemporaryDirectory(prefix="lepton-upload-") as aside:
            # Opened before anything is read: clients of plain grpc.aio lose an answer that comes too early, and report
            # "Internal error from Core" (grpc/grpc#36066).
            file = await asyncio.to_thread(Path(aside, "artifact").open, "w+b")
            with file:
                first = await anext(aiter(request_iterator), None)
                if first is None:
                    raise InvalidArgument("INVALID_FIELD", fields={"parent": "the first message must name the project"})
                async with self._limits.transfer():
                    return await self._upload(first, request_iterator, file)

    async def GetUpload(self, request: GetUploadRequest, context: Any) -> Upload:
        """Says how far an upload has come."""
        return await self._uploads.status(ProjectName.parse(request.parent, "parent"), request.digest)

    async def GetArtifact(self, request: GetArtifactRequest, context: Any) -> Artifact:
        """Describes an artifact."""
        return await self._artifact(ArtifactName.parse(request.name))

    async def DownloadArtifact(
        self, request: DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[DownloadArtifactResponse]:
        """Sends an artifact's bytes."""
        name = ArtifactName.parse(request.name)
        # Verified as a whole before the first byte leaves, and never in memory as a whole.
        async with self._limits.transfer():
            with tempfile.TemporaryDirectory(prefix="lepton-download-") as aside:
                path = Path(aside) / "artifact"
                await self._artifacts.fetch_to(name.project, f"sha256:{name.artifact}", path)
                with await asyncio.to_thread(path.open, "rb") as file:
                    file.seek(request.offset)
                    while data := await asyncio.to_thread(file.read, _CHUNK):
                        yield DownloadArtifactResponse(data=data)

    async def _upload(
        self, first: UploadArtifactRequest, rest: AsyncIterator[UploadArtifactRequest], aside: BinaryIO
    ) -> Artifact:
        project = ProjectName.parse(first.parent, "parent")
        self._limits.check_size(first.size_bytes)
        await self._limits.check_quota(project.project, first.size_bytes - first.offset)
        if first.digest and first.size_bytes:
            await self._uploads.receive(first, rest, project)
            return await self._artifact(ArtifactName(project.project, first.digest.removeprefix("sha256:")))
        received, size = await self._receive(first, rest, aside)
        if first.digest and received != first.digest:
            raise InvalidArgument("DIGEST_MISMATCH", expected=first.digest, received=received)
        await self._limits.check_quota(project.project, size)
        digest = await self._artifacts.put_file(project.project, Path(aside.name))
        return await self._artifact(ArtifactName(project.project, digest.removeprefix("sha256:")))

    async def _receive(
        self, first: UploadArtifactRequest, rest: AsyncIterator[UploadArtifactRequest], aside: BinaryIO
    ) -> tuple[str, int]:
        """Writes what is sent to a file; its digest and size."""
        size, content = len(first.data), hashlib.sha256(first.data)
        await asyncio.to_thread(aside.write, first.data)
        async for chunk in rest:
            size += len(chunk.data)
            self._limits.check_size(size)
            await asyncio.to_thread(aside.write, chunk.data)  # the disk may be slow
            content.update(chunk.data)
        await asyncio.to_thread(aside.flush)
        return f"sha256:{content.hexdigest()}", size

    async def _artifact(self, name: ArtifactName) -> Artifact:
        digest = f"sha256:{name.artifact}"
        size = await self._artifacts.size(name.project, digest)
        return Artifact(name=str(name), digest=digest, size_bytes=size)
