"""The audit trail: the one way in which records get into the log, chained by SHA-256, at once with what they record."""

import asyncio
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from chassis.audit.entry import nanoseconds
from chassis.call import current_call
from chassis.clock import Clock
from chassis.kv import KV, Compare, Entry, Get, Op, Put, TxnResult, mod
from chassis.logs import logger
from lepton.audit.record import ORIGIN, Outcome, Record, clean
from lepton.errors import Aborted, Unavailable
from lepton.internal.v1.audit_feed_pb2 import AuditBlock, AuditHead
from services.auth import layout

log = logger(__name__)

SERVICE: Final = "auth"
HEAD_KEY: Final = "audit head"
"""What the key of heads is derived for, from the key-encryption key."""
_ATTEMPTS: Final = 64
_MAC: Final = struct.Struct(">Q32sQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What is recorded; what is left empty is taken from the call being served."""

    resource: str
    outcome: Outcome = Outcome.SUCCEEDED
    actor: str = ""
    action: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailHead:
    """The end of the log as the store has it."""

    sequence: int = 0
    digest: bytes = ORIGIN
    writes: int = 0
    revision: int = 0


class AuditTrail:
    """Writes transactions together with their records. `key` proves that a head was written by auth."""

    def __init__(self, kv: KV, clock: Clock, key: bytes) -> None:
        self._kv = kv
        self._clock = clock
        self._key = key
        self._head: TrailHead | None = None
        self._writing = asyncio.Lock()  # one at a time: they would only undo each other's guard

    async def commit(self, deed: Deed, compare: Sequence[Compare] = (), then: Sequence[Op] = ()) -> TxnResult:
        """Carry out and record; when `compare` does not hold, nothing is done and nothing recorded."""
        call = current_call()
        done = await self.append([self._record(deed)], compare, then)
        if done.succeeded and call is not None:
            call.is_audited = True
        return done

    async def beside(self, deed: Deed, compare: Sequence[Compare] = (), then: Sequence[Op] = ()) -> TxnResult:
        """As `commit`, for what is done on behalf of the call being served, which gets a record of its own."""
        return await self.append([self._record(deed)], compare, then)

    async def refused(self, resource: str, reason: str = "") -> None:
        """Record that the call being served was refused."""
        await self.commit(Deed(resource=resource, outcome=Outcome.REFUSED, reason=reason))

    async def append(
        self, records: Sequence[Record], compare: Sequence[Compare] = (), then: Sequence[Op] = ()
    ) -> TxnResult:
        """Put records at the end of the log, in one transaction with `then`.

        Another replica's record in between is not a failure: the transaction is made again behind it. What has
        happened elsewhere must be recorded even when `compare` fails: the caller looks at the result.
        """
        async with self._writing:
            for _ in range(_ATTEMPTS):
                head = self._head or await self._read(await self._kv.get(layout.AUDIT_HEAD))
                chained = chain(records, head.sequence, head.digest)
                new = TrailHead(sequence=chained[-1].sequence, digest=chained[-1].digest, writes=head.writes + 1)
                block = AuditBlock(records=[record.canonical() for record in chained])
                self._head = None  # unknown, should the transaction's outcome be
                done = await self._kv.txn(
                    [mod(layout.AUDIT_HEAD, head.revision), *compare],
                    [
                        *then,
                        Put(layout.audit_block(chained[0].sequence), block.SerializeToString()),
                        Put(layout.AUDIT_HEAD, self._written(new)),
                    ],
                    [Get(layout.AUDIT_HEAD)],
                )
                if done.succeeded:
                    self._head = replace(new, revision=done.revision)
                    return done
                self._head = await self._read(done.responses[0].entry)
                if self._head.revision == head.revision:
                    return done
        raise Aborted("WRITE_CONFLICT")

    async def restore(self, sequence: int, digest: bytes) -> bool:
        """Write the head anew where it was lost or changed. Only an operator may wish it: `audit-repair`."""
        entry = await self._kv.get(layout.AUDIT_HEAD)
        head = TrailHead(sequence=sequence, digest=digest, writes=entry.version + 1 if entry is not None else 1)
        guard = mod(layout.AUDIT_HEAD, entry.mod_revision if entry is not None else 0)
        self._head = None
        return (await self._kv.txn([guard], [Put(layout.AUDIT_HEAD, self._written(head))])).succeeded

    def is_own(self, head: AuditHead) -> bool:
        """Whether auth wrote this head."""
        return hmac.compare_digest(head.mac, self._mac(head))

    async def _read(self, entry: Entry | None) -> TrailHead:
        """The head; a log that somebody has changed is not written on, lest it be sealed as it is now."""
        if entry is None:
            if await self._kv.get(layout.AUDIT_ANCHOR) is None:
                return TrailHead()
            log.error("the head of the audit log is missing")
            raise Unavailable("AUDIT_UNAVAILABLE", problem="its head is missing")
        head = AuditHead.FromString(entry.value)
        if not self.is_own(head) or head.writes != entry.version:
            log.error("the head of the audit log was changed", sequence=head.sequence)
            raise Unavailable("AUDIT_UNAVAILABLE", problem="its head was changed")
        return TrailHead(sequence=head.sequence, digest=head.digest, writes=head.writes, revision=entry.mod_revision)

    def _written(self, head: TrailHead) -> bytes:
        message = AuditHead(sequence=head.sequence, digest=head.digest, writes=head.writes)
        message.mac = self._mac(message)
        return message.SerializeToString()

    def _mac(self, head: AuditHead) -> bytes:
        return hmac.digest(self._key, _MAC.pack(head.sequence, head.digest, head.writes), hashlib.sha256)

    def _record(self, deed: Deed) -> Record:
        call = current_call()
        actor, action, trace, source = deed.actor, deed.action, "", ""
        if call is not None:
            actor = actor or (call.principal.name if call.principal is not None else call.peer)
            action = action or call.method.path.lstrip("/")
            trace = f"{call.trace.trace_id:032x}" if call.trace is not None else ""
            source = call.context.peer()
        return Record(
            time_ns=nanoseconds(self._clock.now()),
            outcome=deed.outcome,
            trace_id=trace,
            service=SERVICE,
            actor=clean(actor),
            action=clean(action),
            resource=clean(deed.resource),
            source=clean(source),
            reason=clean(deed.reason),
        )


def chain(records: Sequence[Record], sequence: int, digest: bytes) -> list[Record]:
    """The records as they follow a log of so many, whose last has this digest."""
    chained = []
    for record in records:
        sequence += 1
        linked = replace(record, sequence=sequence, previous=digest)
        chained.append(linked)
        digest = linked.digest
    return chained
