"""Uploads and downloads of artifacts: chunked, checked by digest, limited in size."""

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
        with tempfile.NamedTemporaryFile(prefix="lepton-upload-") as aside:
            project = await self._receive(request_iterator, aside.file)
            aside.flush()
            digest = await self._artifacts.put_file(project.project, Path(aside.name))
        return await self._artifact(ArtifactName(project.project, digest.removeprefix("sha256:")))

    async def GetArtifact(self, request: GetArtifactRequest, context: Any) -> Artifact:
        """Describes an artifact."""
        return await self._artifact(ArtifactName.parse(request.name))

    async def DownloadArtifact(
        self, request: DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[DownloadArtifactResponse]:
        """Sends an artifact's bytes."""
        name = ArtifactName.parse(request.name)
        data = await self._artifacts.read(name.project, f"sha256:{name.artifact}")
        for begin in range(request.offset, len(data), _CHUNK):
            yield DownloadArtifactResponse(data=data[begin : begin + _CHUNK])

    async def _receive(self, requests: AsyncIterator[UploadArtifactRequest], file: BinaryIO | Any) -> ProjectName:
        project: ProjectName | None = None
        expected, size, content = "", 0, hashlib.sha256()
        async for chunk in requests:
            if project is None:
                project, expected = ProjectName.parse(chunk.parent, "parent"), chunk.digest
            size += len(chunk.data)
            if size > self._largest_bytes:
                raise InvalidArgument("ARTIFACT_TOO_LARGE", limit_bytes=str(self._largest_bytes))
            content.update(chunk.data)
            file.write(chunk.data)
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
