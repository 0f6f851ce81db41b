"""The log as it lies in the store: reads blocks, batches, bodies and tombstones, all at one revision when asked to."""

import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from chassis.kv import KV, Entry
from lepton.audit.batch import Batch, Tombstone
from lepton.audit.tree import Frontier
from lepton.audit.verify import Body
from lepton.audit.wire import batch_of, tombstone_of
from lepton.auth.v1.audit_service_pb2 import AuditBatch, AuditBody, AuditTombstone
from lepton.internal.v1.audit_feed_pb2 import AuditAnchor, AuditBlock
from services.auth import layout

_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """How far the log is sealed; `batch` is None before the first seal."""

    batch: Batch | None = None
    frontier: Frontier = field(default_factory=Frontier)
    revision: int = 0
    version: int = 0


async def read_anchor(kv: KV, revision: int = 0) -> Anchor:
    """The anchor."""
    entry = await read(kv, layout.AUDIT_ANCHOR, revision)
    if entry is None:
        return Anchor()
    message = AuditAnchor.FromString(entry.value)
    batch = batch_of(AuditBatch.FromString(message.batch))
    frontier = Frontier(size=batch.index + 1, peaks=tuple(message.peaks))
    return Anchor(batch=batch, frontier=frontier, revision=entry.mod_revision, version=entry.version)


async def read_batches(kv: KV, after: int = -1, revision: int = 0) -> list[Batch]:
    """The heads of the batches behind an index, in order."""
    start = layout.audit_batch(after) if after >= 0 else ""
    pages = each_entry(kv, layout.AUDIT_BATCHES, revision=revision, start_after=start)
    return [batch_of(AuditBatch.FromString(entry.value)) async for entry in pages]


async def read_tombstones(kv: KV, revision: int = 0) -> dict[int, Tombstone]:
    """What was deleted on purpose, by index."""
    entries = each_entry(kv, layout.AUDIT_TOMBSTONES, revision=revision)
    found = [tombstone_of(AuditTombstone.FromString(entry.value)) async for entry in entries]
    return {each.index: each for each in found}


async def read_body(kv: KV, index: int, revision: int = 0) -> Body | None:
    """The records of a batch; None when they are not there."""
    entry = await read(kv, layout.audit_body(index), revision)
    return None if entry is None else unpack(entry.value)


async def read_blocks(kv: KV, *, limit: int = 0, revision: int = 0) -> tuple[Sequence[Entry], int]:
    """The blocks that are not sealed yet, and the revision at which they were read."""
    if limit:
        page = await kv.list(layout.AUDIT_BLOCKS, limit=limit, revision=revision)
        return page.entries, page.revision
    if not revision:
        revision = (await kv.list(layout.AUDIT_HEAD, limit=1)).revision
    return [entry async for entry in each_entry(kv, layout.AUDIT_BLOCKS, revision=revision)], revision


def records_in(blocks: Sequence[Entry]) -> list[bytes]:
    """The canonical bytes of the records in blocks, in order."""
    return [record for block in blocks for record in AuditBlock.FromString(block.value).records]


def pack(body: Body) -> bytes:
    """A body as it is stored: compressed, because records are alike."""
    return zlib.compress(AuditBody(records=body.records, leaves=body.leaves).SerializeToString(), 6)


def unpack(data: bytes) -> Body:
    """A stored body; one that cannot be read has no records."""
    try:
        message = AuditBody.FromString(zlib.decompress(data))
    except Exception:  # noqa: BLE001 - whatever is wrong with the bytes, the check says that the records are not there
        return Body(records=(), leaves=())
    return Body(records=tuple(message.records), leaves=tuple(message.leaves))


async def read(kv: KV, key: str, revision: int) -> Entry | None:
    """One key as it stood at a revision (0: now)."""
    if not revision:
        return await kv.get(key)
    page = await kv.list(key, limit=1, revision=revision)
    return next((entry for entry in page.entries if entry.key == key), None)


async def each_entry(kv: KV, prefix: str, *, revision: int = 0, start_after: str = "") -> AsyncIterator[Entry]:
    """What lies under a prefix, page by page."""
    while True:
        page = await kv.list(prefix, limit=_PAGE, start_after=start_after, revision=revision)
        for entry in page.entries:
            yield entry
        if not page.more:
            return
        start_after, revision = page.entries[-1].key, page.revision
