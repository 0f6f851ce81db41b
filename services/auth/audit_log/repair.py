"""The way on for a log whose end was changed: back to the last record that holds, and everything else set aside."""

from collections.abc import Sequence
from typing import Final

from chassis.kv import KV, Delete, Entry, Op, Put, mod
from lepton.audit.batch import Batch
from lepton.audit.record import ORIGIN, Malformed, Record
from lepton.errors import Aborted
from services.auth import layout
from services.auth.audit import AuditTrail, Deed
from services.auth.audit_log.stored import read_anchor, read_blocks, records_in

_AT_ONCE: Final = 40


async def repair(kv: KV, trail: AuditTrail) -> str:
    """Write the head anew behind the last record that follows the last seal; says what was done, as the log does.

    What does not follow is kept under another key, as evidence. Nothing that is sealed is touched.
    """
    anchor = await read_anchor(kv)
    blocks, _ = await read_blocks(kv)
    good, sequence, digest = _holding(blocks, anchor.batch)
    if 0 < good < len(blocks):
        # A broken link tells that one of its two ends was changed, not which: both are set aside.
        good, sequence, digest = _holding(blocks[: good - 1], anchor.batch)
    aside = blocks[good:]
    for at in range(0, len(aside), _AT_ONCE):
        part = aside[at : at + _AT_ONCE]
        moved: list[Op] = [Put(layout.audit_aside(block.key, block.mod_revision), block.value) for block in part]
        moved += [Delete(block.key) for block in part]
        if not (await kv.txn([mod(block.key, block.mod_revision) for block in part], moved)).succeeded:
            raise Aborted("WRITE_CONFLICT")
    if not await trail.restore(sequence, digest):
        raise Aborted("WRITE_CONFLICT")
    done = f"goes on behind record {sequence}; {len(aside)} blocks were set aside"
    deed = Deed(resource="auditLog", actor="local/audit-repair", action="audit.repair", reason=done)
    await trail.commit(deed)
    return done


def _holding(blocks: Sequence[Entry], sealed: Batch | None) -> tuple[int, int, bytes]:
    """How many blocks follow, and the number and digest of their last record."""
    sequence, digest = (sealed.last, sealed.digest) if sealed is not None else (0, ORIGIN)
    for at, block in enumerate(blocks):
        number, link = sequence, digest
        for data in records_in([block]):
            try:
                record = Record.parse(data)
            except Malformed:
                return at, sequence, digest
            if record.sequence != number + 1 or record.previous != link:
                return at, sequence, digest
            number, link = record.sequence, record.digest
        sequence, digest = number, link
    return len(blocks), sequence, digest
