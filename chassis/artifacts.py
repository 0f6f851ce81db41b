"""The artifact store for services: lepton.artifacts, off the event loop."""

import asyncio
from pathlib import Path

from lepton import artifacts
from lepton.artifacts import Digest


class ArtifactStore:
    """Bytes under their own SHA-256; each call runs in a thread, because files and object stores block."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = artifacts.ArtifactStore(url)

    async def put_bytes(self, project: str, data: bytes) -> Digest:
        """Store data; storing what is there already changes nothing."""
        return await asyncio.to_thread(self._store.put_bytes, project, data)

    async def put_file(self, project: str, source: Path) -> Digest:
        """Store a file."""
        return await asyncio.to_thread(self._store.put_file, project, source)

    async def read(self, project: str, digest: str) -> bytes:
        """The bytes, verified."""
        return await asyncio.to_thread(self._store.read, project, digest)

    async def fetch_to(self, project: str, digest: str, target: Path) -> None:
        """Write the bytes to a file, verified before it appears."""
        await asyncio.to_thread(self._store.fetch_to, project, digest, target)

    async def exists(self, project: str, digest: str) -> bool:
        """Whether it is stored."""
        return await asyncio.to_thread(self._store.exists, project, digest)

    async def size(self, project: str, digest: str) -> int:
        """How many bytes it has."""
        return await asyncio.to_thread(self._store.size, project, digest)


__all__ = ["ArtifactStore", "Digest"]
