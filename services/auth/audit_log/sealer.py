"""Seals records into signed batches, anchors them, and deletes what has been kept long enough."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from chassis.audit.entry import nanoseconds
from chassis.clock import Clock, wait_for_event
from chassis.kv import KV, Delete, Entry, KVError, Put, follow, mod
from chassis.logs import logger
from lepton.audit.batch import Batch, Tombstone, batch_of
from lepton.audit.record import ORIGIN, Record
from lepton.audit.tree import Frontier
from lepton.audit.verify import Body
from lepton.audit.wire import batch_to_proto, tombstone_to_proto
from lepton.errors import LeptonError
from lepton.internal.v1.audit_feed_pb2 import AuditAnchor
from services.auth import layout
from services.auth.audit import AuditTrail, Deed
from services.auth.audit_log.keys import AuditKeys
from services.auth.audit_log.stored import (
    Anchor,
    pack,
    read_anchor,
    read_batches,
    read_blocks,
    read_tombstones,
    records_in,
)

log = logger(__name__)

_MOST_BLOCKS: Final = 50  # a transaction of etcd has 128 operations at the most
_REST_S: Final = 6 * 3600.0  # between looks for what has become too old
_MOST_BYTES: Final = 1 << 20
_EXPIRED_AT_ONCE: Final = 20
_CLOCK_SKEW_NS: Final = 60 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """When records are sealed, and how long they are kept."""

    records: int = 1024
    within: timedelta = timedelta(seconds=5)
    keep: timedelta | None = None  # None = for ever


class Sealer:
    """Every replica runs one; the anchor lets one at a time through."""

    def __init__(
        self,
        kv: KV,
        keys: AuditKeys,
        trail: AuditTrail,
        clock: Clock,
        sealing: Sealing,
        keep: Callable[[], timedelta | None] | None = None,
    ) -> None:
        self._kv = kv
        self._keys = keys
        self._trail = trail
        self._clock = clock
        self._sealing = sealing
        self._keep = keep or (lambda: sealing.keep)  # what policies make of it
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Seal and expire, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            while True:
                self._news.clear()
                try:
                    is_settled = await self._turn()
                except (KVError, LeptonError) as error:
                    is_settled = False
                    log.warning("the audit log was not sealed", error_class=type(error).__name__, error=str(error))
                if is_settled:
                    await wait_for_event(self._news, _REST_S, self._clock)
                else:
                    await self._clock.sleep(self._sealing.within.total_seconds() / 5)

    async def _listen(self) -> None:
        """Hear of records, whichever replica writes them."""
        async with aclosing(follow(self._kv, layout.AUDIT_HEAD)) as changes:
            async for _ in changes:
                self._news.set()

    async def _turn(self) -> bool:
        """Do what is due; whether nothing is left that will be soon."""
        await self._keys.refresh()
        while await self.seal() is not None:
            pass
        await self.expire()
        blocks, _ = await read_blocks(self._kv, limit=1)
        return not blocks

    async def seal(self, *, now: bool = False) -> Batch | None:
        """Seal what is due, or whatever there is; None when there is nothing, or another replica was first."""
        anchor = await read_anchor(self._kv)
        blocks = _taken((await read_blocks(self._kv, limit=_MOST_BLOCKS))[0], self._sealing.records)
        stored = records_in(blocks)
        if not stored or not (now or self._is_due(blocks, stored)):
            return None
        records = [Record.parse(data) for data in stored]
        if not _follows(records, anchor.batch):
            # What does not hold is not signed: VerifyAudit says what it is.
            log.error("the audit log was changed before it was sealed", sequence=records[0].sequence)
            return None
        key_id = self._keys.newest
        batch, frontier = await asyncio.to_thread(
            batch_of, records, anchor.frontier, sealed_ns=nanoseconds(self._clock.now()), key_id=key_id
        )
        batch = replace(batch, signature=self._keys.sign(key_id, batch.signed()))
        body = Body(records=stored, leaves=[record.digest for record in records])
        return batch if await self._store(batch, frontier, body, blocks, anchor) else None

    async def expire(self) -> int:
        """Delete the records of batches that were kept long enough, with a signed tombstone each; says how many."""
        keep = self._keep()
        if keep is None:
            return 0
        before_ns = nanoseconds(self._clock.now() - keep)
        gone = await read_tombstones(self._kv)
        old = [
            batch
            for batch in await read_batches(self._kv)
            # Both: the clock of the service that made a record may have been wrong.
            if batch.index not in gone and max(batch.end_ns, batch.sealed_ns) < before_ns
        ]
        return sum([await self._bury(batch, keep) for batch in old[:_EXPIRED_AT_ONCE]])

    async def _store(
        self, batch: Batch, frontier: Frontier, body: Body, blocks: Sequence[Entry], anchor: Anchor
    ) -> bool:
        head = batch_to_proto(batch).SerializeToString()
        done = await self._kv.txn(
            [mod(layout.AUDIT_ANCHOR, anchor.revision), *(mod(block.key, block.mod_revision) for block in blocks)],
            [
                Put(layout.audit_batch(batch.index), head),
                Put(layout.audit_body(batch.index), await asyncio.to_thread(pack, body)),
                Put(layout.AUDIT_ANCHOR, AuditAnchor(batch=head, peaks=frontier.peaks).SerializeToString()),
                *(Delete(block.key) for block in blocks),
            ],
        )
        return done.succeeded

    async def _bury(self, batch: Batch, keep: timedelta) -> bool:
        body = await self._kv.get(layout.audit_body(batch.index))
        if body is None:
            return False  # deleted without a tombstone: that stays a finding
        key_id = self._keys.newest
        tombstone = Tombstone(
            index=batch.index,
            first=batch.first,
            last=batch.last,
            root=batch.root,
            time_ns=nanoseconds(self._clock.now()),
            policy=f"kept for {keep}",
            key_id=key_id,
        )
        tombstone = replace(tombstone, signature=self._keys.sign(key_id, tombstone.signed()))
        deed = Deed(
            resource=f"auditBatches/{batch.index}",
            actor="service/auth",
            action="audit.expire",
            reason=f"records {batch.first}-{batch.last}",
        )
        put = Put(layout.audit_tombstone(batch.index), tombstone_to_proto(tombstone).SerializeToString())
        done = await self._trail.commit(deed, [mod(body.key, body.mod_revision)], [Delete(body.key), put])
        return done.succeeded

    def _is_due(self, blocks: Sequence[Entry], stored: Sequence[bytes]) -> bool:
        if len(stored) >= self._sealing.records or len(blocks) == _MOST_BLOCKS:
            return True
        age_ns = nanoseconds(self._clock.now()) - Record.parse(stored[0]).time_ns
        # A record from the future, by a clock that is ahead, must not put the sealing off.
        return age_ns >= self._sealing.within.total_seconds() * 1e9 or age_ns < -_CLOCK_SKEW_NS


def _taken(blocks: Sequence[Entry], records: int) -> Sequence[Entry]:
    """The first blocks that together make a batch."""
    size = count = 0
    for at, block in enumerate(blocks):
        size += len(block.value)
        if at and size > _MOST_BYTES:
            return blocks[:at]
        count += len(records_in([block]))
        if count >= records:
            return blocks[: at + 1]
    return blocks


def _follows(records: Sequence[Record], last: Batch | None) -> bool:
    sequence, digest = (last.last, last.digest) if last is not None else (0, ORIGIN)
    for record in records:
        if record.sequence != sequence + 1 or record.previous != digest:
            return False
        sequence, digest = record.sequence, record.digest
    return True
