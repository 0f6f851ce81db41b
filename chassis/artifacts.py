"""The artifact store for services: lepton.artifacts, off the event loop."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from chassis.artifact_keys import ArtifactKeys
from lepton import artifacts
from lepton.artifacts import UPLOADS, Digest, Listed, Location


class ArtifactStore:
    """Bytes under their own SHA-256; each call runs in a thread, because files and object stores block.

    `keys` are used where the URL ends in `#keys=project`.
    """

    def __init__(self, url: str, keys: ArtifactKeys | None = None) -> None:
        self.url = url
        self._keys = keys if Location.parse(url).has_project_keys else None
        self._store = artifacts.ArtifactStore(url, self._keys)

    @property
    def has_project_keys(self) -> bool:
        """Whether each project's artifacts are sealed with keys of its own."""
        return self._keys is not None

    async def put_bytes(self, project: str, data: bytes) -> Digest:
        """Store data; storing what is there already changes nothing."""
        await self._learn(project)
        return await asyncio.to_thread(self._store.put_bytes, project, data)

    async def put_file(self, project: str, source: Path) -> Digest:
        """Store a file."""
        await self._learn(project)
        return await asyncio.to_thread(self._store.put_file, project, source)

    async def read(self, project: str, digest: str) -> bytes:
        """The bytes, verified."""
        await self._learn(project)
        return await asyncio.to_thread(self._store.read, project, digest)

    async def head(self, project: str, digest: str, most: int) -> bytes:
        """Its first bytes, not verified: to look at, not to use."""
        await self._learn(project)
        return await asyncio.to_thread(self._store.head, project, digest, most)

    async def mapped(self, project: str, digest: str) -> memoryview:
        """The bytes, verified, in memory only as far as they are touched where the store is local."""
        await self._learn(project)
        return await asyncio.to_thread(self._store.mapped, project, digest)

    async def fetch_to(self, project: str, digest: str, target: Path) -> None:
        """Write the bytes to a file, verified before it appears."""
        await self._learn(project)
        await asyncio.to_thread(self._store.fetch_to, project, digest, target)

    async def exists(self, project: str, digest: str) -> bool:
        """Whether it is stored."""
        return await asyncio.to_thread(self._store.exists, project, digest)

    async def size(self, project: str, digest: str) -> int:
        """How many bytes it has."""
        return await asyncio.to_thread(self._store.size, project, digest)

    async def put_part(self, project: str, data: bytes) -> Digest:
        """Store a part of an upload, where no artifact is read from."""
        await self._learn(project)
        return await asyncio.to_thread(lambda: self._store.put_bytes(project, data, area=UPLOADS))

    async def join(self, project: str, parts: Sequence[Digest], digest: str) -> str:
        """Make the artifact of a digest out of parts. Returns what their digest is; if another, nothing is made."""
        await self._learn(project)
        return await asyncio.to_thread(self._join, project, parts, digest)

    def _join(self, project: str, parts: Sequence[Digest], digest: str) -> str:
        content, draft = hashlib.sha256(), self._store.draft(project, area="")
        try:
            for part in parts:
                data = self._store.read_part(project, part)
                content.update(data)
                draft.write(data)
            found = f"sha256:{content.hexdigest()}"
            if found == digest:
                self._store.publish(project, draft.finish(), area="")
        finally:
            draft.abandon()
        return found

    async def projects(self) -> list[str]:
        """The projects that have artifacts."""
        return await asyncio.to_thread(self._store.projects)

    async def listing(self, project: str, *, area: str) -> list[tuple[Digest, Listed]]:
        """Every artifact of an area."""
        return await asyncio.to_thread(lambda: list(self._store.listing(project, area=area)))

    async def remove(self, listed: Iterable[Listed], *, older_than: float) -> int:
        """Delete those of them that were last stored before `older_than` (seconds of the epoch); how many they were."""
        return await asyncio.to_thread(lambda: sum(self._store.remove(one, older_than=older_than) for one in listed))

    async def rewrap(self, project: str, *, area: str) -> int:
        """Seal what an area holds by the project's current key, without writing it again; how many could not be."""
        await self._learn(project)
        return await asyncio.to_thread(
            lambda: sum(not self._store.rewrap(project, one) for _, one in self._store.listing(project, area=area))
        )

    async def sweep(self, project: str, *, area: str, older_than: float) -> int:
        """Remove what dead writers have left; how many files they were."""
        return await asyncio.to_thread(self._store.sweep, project, area=area, older_than=older_than)

    async def _learn(self, project: str) -> None:
        if self._keys is not None:
            await self._keys.learn(project)


__all__ = ["ArtifactStore", "Digest"]
