"""Uploads that go on after whatever broke them: parts in the store, the list of them in the key-value state.

A part is stored when it is full and when its call ends, however it ends; only a crash of this process loses what was
not stored yet. Part follows part without a gap: each is recorded under the byte that it begins at, once, so two clients
that send the same artifact cannot mix. When all bytes are there they are joined, and the artifact appears if its digest
is the one announced; else the parts are dropped. The parts of an upload that nobody finishes run out after a day.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.artifacts import ArtifactStore, Digest
from chassis.call import current_call
from chassis.clock import Clock
from chassis.kv import KV, DeletePrefix, Put, absent, list_all
from lepton.errors import Aborted, InvalidArgument, NotFound
from lepton.names import ArtifactName, ProjectName
from lepton.trainer.v1.artifact_service_pb2 import Upload, UploadArtifactRequest
from services.trainer.store import uploads_prefix

PART_BYTES: Final = 8 << 20
KEEP_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """One upload of one caller."""

    project: ProjectName
    digest: str

    @property
    def prefix(self) -> str:
        call = current_call()
        caller = call.principal.name if call is not None and call.principal is not None else ""
        whose = hashlib.sha256(caller.encode()).hexdigest()[:16]  # nobody's bytes get into another one's upload
        return uploads_prefix(self.project, whose, self.digest.removeprefix("sha256:"))

    @property
    def artifact(self) -> str:
        return str(ArtifactName(self.project.project, self.digest.removeprefix("sha256:")))


class Uploads:
    """The uploads of all projects."""

    def __init__(self, kv: KV, artifacts: ArtifactStore, clock: Clock, *, part_bytes: int = PART_BYTES) -> None:
        self._kv, self._artifacts, self._clock, self._part_bytes = kv, artifacts, clock, part_bytes

    async def status(self, project: ProjectName, digest: str) -> Upload:
        """How far an upload of the caller's has come."""
        if await self._artifacts.exists(project.project, digest):
            size = await self._artifacts.size(project.project, digest)
            return Upload(digest=digest, committed_bytes=size, done=True)
        parts = await self._parts(_Place(project=project, digest=digest))
        expires = Timestamp()
        expires.FromSeconds(int(self._clock.now().timestamp()) + KEEP_S)
        return Upload(digest=digest, committed_bytes=_end(parts), expire_time=expires if parts else None)

    async def receive(
        self, first: UploadArtifactRequest, rest: AsyncIterator[UploadArtifactRequest], project: ProjectName
    ) -> None:
        """Takes an upload on from `first.offset`; makes the artifact once its last byte is there.

        Raises Aborted (UPLOAD_MOVED) when it stands at another byte, InvalidArgument (DIGEST_MISMATCH, INVALID_FIELD).
        """
        place, size = _Place(project=project, digest=first.digest), first.size_bytes
        parts = await self._parts(place)
        if await self._artifacts.exists(project.project, first.digest):
            return
        if first.offset != _end(parts):
            raise _moved(place, _end(parts))
        writer = _Writer(self._kv, self._artifacts, place, first.offset, self._part_bytes)
        try:
            await writer.write(first.data, size)
            async for chunk in rest:
                await writer.write(chunk.data, size)
        finally:
            await asyncio.shield(writer.flush())  # a call that was cut off has brought what it has brought
        if writer.at == size:
            await self._join(place, size)

    async def _join(self, place: _Place, size: int) -> None:
        project = place.project.project
        parts = await self._parts(place)
        if _end(parts) != size:  # another call has come to the end meanwhile, and its parts have gone
            if not await self._artifacts.exists(project, place.digest):
                raise _moved(place, _end(parts))
            await self._forget(place)
            return
        try:
            found = await self._artifacts.join(project, [digest for _, _, digest in parts], place.digest)
        except NotFound as error:  # it took so long that its first parts have run out
            await self._forget(place)
            raise _moved(place, 0) from error
        await self._forget(place)
        if found != place.digest:
            raise InvalidArgument("DIGEST_MISMATCH", expected=place.digest, received=found)

    async def _forget(self, place: _Place) -> None:
        await self._kv.txn([], [DeletePrefix(place.prefix)])

    async def _parts(self, place: _Place) -> list[tuple[int, int, Digest]]:
        """Where each part begins and ends, and its digest, from byte 0 on as far as there is no gap."""
        page = await list_all(self._kv, place.prefix)
        found: list[tuple[int, int, Digest]] = []
        for entry in page.entries:
            begin, (size, digest) = int(entry.key.rpartition("/")[2], 16), json.loads(entry.value)
            if begin == _end(found):
                found.append((begin, begin + size, Digest(digest)))
        return found


class _Writer:
    """Cuts what arrives into parts."""

    def __init__(self, kv: KV, artifacts: ArtifactStore, place: _Place, at: int, part_bytes: int) -> None:
        self._kv, self._artifacts, self._place, self._part_bytes = kv, artifacts, place, part_bytes
        self._prefix = place.prefix
        self._held = bytearray()
        self._lease: int | None = None
        self.at = at
        """The byte up to which everything is stored."""

    async def write(self, data: bytes, size: int) -> None:
        """Takes the next bytes of a whole of `size`."""
        self._held += data
        if self.at + len(self._held) > size:
            del self._held[size - self.at :]
            raise InvalidArgument("INVALID_FIELD", fields={"data": f"there are more than the {size} bytes announced"})
        if len(self._held) >= self._part_bytes:
            await self.flush()

    async def flush(self) -> None:
        """Stores what has arrived as a part."""
        if not self._held:
            return
        data, self._held = bytes(self._held), bytearray()
        digest = await self._artifacts.put_part(self._place.project.project, data)
        if self._lease is None:
            self._lease = (await self._kv.grant(KEEP_S, keep_alive=False)).id
        key = f"{self._prefix}{self.at:016x}"
        done = await self._kv.txn([absent(key)], [Put(key, json.dumps([len(data), digest]).encode(), self._lease)])
        if not done.succeeded:
            raise _moved(self._place, self.at)
        self.at += len(data)


def _end(parts: list[tuple[int, int, Digest]]) -> int:
    return parts[-1][1] if parts else 0


def _moved(place: _Place, at: int) -> Aborted:
    return Aborted("UPLOAD_MOVED", artifact=place.artifact, committed_bytes=str(at))
