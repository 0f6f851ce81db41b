"""The check of the stored log: all of it at one revision of the store, against keys that only auth can have made."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from chassis.kv import KV, Compacted
from lepton.audit.batch import Batch, Tombstone
from lepton.audit.verify import (
    EVERYTHING,
    Finding,
    Head,
    Kind,
    Log,
    Span,
    check_batch,
    check_end,
    check_heads,
    in_order,
)
from lepton.errors import OutOfRange
from lepton.internal.v1.audit_feed_pb2 import AuditHead
from services.auth import layout
from services.auth.audit import AuditTrail
from services.auth.audit_log import stored
from services.auth.audit_log.keys import AuditKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check found."""

    findings: list[Finding]
    checked: int
    sequence: int
    head: Batch | None
    tombstones: list[Tombstone] = field(default_factory=list)


class AuditCheck:
    """Reads the log and checks it, batch by batch."""

    def __init__(self, kv: KV, keys: AuditKeys, trail: AuditTrail) -> None:
        self._kv = kv
        self._keys = keys
        self._trail = trail

    async def verify(self, span: Span = EVERYTHING, known: Batch | None = None) -> Verdict:
        """Everything that does not hold within a range. Raises OutOfRange when the store has forgotten it meanwhile."""
        await self._keys.refresh()
        try:
            return await self._verify(span, known)
        except Compacted as error:
            raise OutOfRange("REVISION_COMPACTED", revision=str(error.compact_revision)) from error

    async def frame(self) -> tuple[Log, int, list[Finding]]:
        """The log without the bodies, the revision that it was read at, and what is wrong with its two ends."""
        blocks, revision = await stored.read_blocks(self._kv)
        anchor = await stored.read_anchor(self._kv, revision)
        head_entry = await stored.read(self._kv, layout.AUDIT_HEAD, revision)
        message = AuditHead.FromString(head_entry.value) if head_entry is not None else AuditHead()
        log = Log(
            batches=await stored.read_batches(self._kv, revision=revision),
            tombstones=await stored.read_tombstones(self._kv, revision),
            unsealed=stored.records_in(blocks),
            anchor=anchor.batch,
            head=Head(sequence=message.sequence, digest=message.digest) if head_entry is not None else None,
        )
        is_own = head_entry is not None and self._trail.is_own(message) and message.writes == head_entry.version
        return log, revision, list(_ends(log, anchor, is_own=is_own))

    async def _verify(self, span: Span, known: Batch | None) -> Verdict:
        log, revision, findings = await self.frame()
        log = replace(log, known=known)
        is_signed = self._keys.is_signed
        findings += check_heads(log, is_signed)
        checked = 0
        for batch in log.batches:
            if not span.meets(batch.first, batch.last):
                continue
            body = await stored.read_body(self._kv, batch.index, revision)
            tombstone = log.tombstones.get(batch.index)
            findings += await asyncio.to_thread(lambda: list(check_batch(batch, body, tombstone, is_signed)))  # noqa: B023 - awaited here
            checked += len(body.records) if body is not None else 0
        findings += check_end(log, is_signed)
        return Verdict(
            findings=in_order(findings, span),
            checked=checked + len(log.unsealed),
            sequence=log.head.sequence if log.head is not None else 0,
            head=log.batches[-1] if log.batches else None,
            tombstones=[log.tombstones[index] for index in sorted(log.tombstones)],
        )


def _ends(log: Log, anchor: stored.Anchor, *, is_own: bool) -> Iterator[Finding]:
    """The head and the anchor, against how often the store says that they were written."""
    last = log.batches[-1].last if log.batches else 0
    if not is_own and (log.batches or log.unsealed or anchor.batch is not None):
        first = last + 1 if log.unsealed else max(last, 1)
        what = "the head was not written by auth"
        yield Finding(kind=Kind.FORGED, first=first, last=max(first, last + len(log.unsealed)), what=what)
    if anchor.batch is None and log.batches:
        yield Finding(kind=Kind.FORGED, first=1, last=last, what="the anchor is missing")
    if anchor.batch is not None and anchor.version != anchor.batch.index + 1:
        first = anchor.batch.last
        what = f"the anchor is the {anchor.batch.index + 1}. but was written {anchor.version} times: it was set back"
        yield Finding(kind=Kind.FORGED, first=first, last=max(first, last + len(log.unsealed)), what=what)
