"""Uploads and downloads of artifacts: chunked, checked by digest, limited in size."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from chassis.artifacts import ArtifactStore
from lepton.errors import InvalidArgument
from lepton.names import ArtifactName, ProjectName
from lepton.trainer.v1.artifact_service_pb2 import (
    Artifact,
    DownloadArtifactRequest,
    DownloadArtifactResponse,
    GetArtifactRequest,
    UploadArtifactRequest,
)
from lepton.trainer.v1.artifact_service_pb2_grpc import ArtifactServiceServicer

_CHUNK: Final = 256 * 1024


class ArtifactServicer(ArtifactServiceServicer):
    """Moves artifacts in and out of a project's store."""

    def __init__(self, artifacts: ArtifactStore, largest_bytes: int) -> None:
        self._artifacts, self._largest_bytes = artifacts, largest_bytes

    async def UploadArtifact(self, request_iterator: AsyncIterator[UploadArtifactRequest], context: Any) -> Artifact:
        """Stores what is sent if it is what was announced."""
        with tempfile.TemporaryDirectory(prefix="lepton-upload-") as aside:
            path = Path(aside) / "artifact"
            project = await self._receive(request_iterator, path)
            digest = await self._artifacts.put_file(project.project, path)
        return await self._artifact(ArtifactName(project.project, digest.removeprefix("sha256:")))

    async def GetArtifact(self, request: GetArtifactRequest, context: Any) -> Artifact:
        """Describes an artifact."""
        return await self._artifact(ArtifactName.parse(request.name))

    async def DownloadArtifact(
        self, request: DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[DownloadArtifactResponse]:
        """Sends an artifact's bytes."""
        name = ArtifactName.parse(request.name)
        # Verified as a whole before the first byte leaves, and never in memory as a whole.
        with tempfile.TemporaryDirectory(prefix="lepton-download-") as aside:
            path = Path(aside) / "artifact"
            await self._artifacts.fetch_to(name.project, f"sha256:{name.artifact}", path)
            with await asyncio.to_thread(path.open, "rb") as file:
                file.seek(request.offset)
                while data := await asyncio.to_thread(file.read, _CHUNK):
                    yield DownloadArtifactResponse(data=data)

    async def _receive(self, requests: AsyncIterator[UploadArtifactRequest], path: Path) -> ProjectName:
        project: ProjectName | None = None
        expected, size, content = "", 0, hashlib.sha256()
        with await asyncio.to_thread(path.open, "wb") as file:
            async for chunk in requests:
                if project is None:
                    project, expected = ProjectName.parse(chunk.parent, "parent"), chunk.digest
                size += len(chunk.data)
                if size > self._largest_bytes:
                    raise InvalidArgument("ARTIFACT_TOO_LARGE", limit_bytes=str(self._largest_bytes))
                await asyncio.to_thread(file.write, chunk.data)  # the disk may be slow
                content.update(chunk.data)
        if project is None:
            raise InvalidArgument("INVALID_FIELD", fields={"parent": "the first message must name the project"})
        received = f"sha256:{content.hexdigest()}"
        if expected and received != expected:
            raise InvalidArgument("DIGEST_MISMATCH", expected=expected, received=received)
        return project

    async def _artifact(self, name: ArtifactName) -> Artifact:
        digest = f"sha256:{name.artifact}"
        size = await self._artifacts.size(name.project, digest)
        return Artifact(name=str(name), digest=digest, size_bytes=size)
