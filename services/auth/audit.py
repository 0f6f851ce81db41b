"""The audit trail: a record of every mutation and sign-in, written in its transaction and chained by SHA-256."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from chassis.call import current_call
from chassis.clock import Clock
from chassis.kv import KV, Compare, Entry, Get, Op, Put, TxnResult, mod
from lepton.auth.v1.audit_service_pb2 import AuditRecord
from lepton.errors import Aborted
from lepton.internal.v1 import credentials_pb2
from services.auth import layout

SUCCEEDED: Final = AuditRecord.SUCCEEDED
REFUSED: Final = AuditRecord.REFUSED
_ATTEMPTS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What is recorded; what is left empty is taken from the call being served."""

    resource: str
    outcome: AuditRecord.Outcome.ValueType = SUCCEEDED
    actor: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    sequence: int
    digest: bytes
    revision: int


class AuditTrail:
    """The one way in which auth writes: a transaction together with its record."""

    def __init__(self, kv: KV, clock: Clock) -> None:
        self._kv = kv
        self._clock = clock
        self._head: _Head | None = None
        self._writing = asyncio.Lock()  # one at a time: they would only undo each other's guard

    async def commit(self, deed: Deed, compare: Sequence[Compare] = (), then: Sequence[Op] = ()) -> TxnResult:
        """Carry out and record; when `compare` does not hold, nothing is done and nothing recorded.

        Another replica's record in between is not a failure: the transaction is made again behind it.
        """
        async with self._writing:
            for _ in range(_ATTEMPTS):
                head = self._head or _head_of(await self._kv.get(layout.AUDIT_HEAD))
                record = self._record(deed, head)
                new = credentials_pb2.AuditHead(sequence=record.sequence, digest=record.digest)
                self._head = None  # unknown, should the transaction's outcome be
                done = await self._kv.txn(
                    [mod(layout.AUDIT_HEAD, head.revision), *compare],
                    [
                        *then,
                        Put(layout.audit_record(record.sequence), record.SerializeToString()),
                        Put(layout.AUDIT_HEAD, new.SerializeToString()),
                    ],
                    [Get(layout.AUDIT_HEAD)],
                )
                if done.succeeded:
                    self._head = _Head(sequence=record.sequence, digest=record.digest, revision=done.revision)
                    return done
                self._head = _head_of(done.responses[0].entry)
                if self._head.revision == head.revision:
                    return done
        raise Aborted("WRITE_CONFLICT")

    async def refused(self, resource: str) -> None:
        """Record that the call being served was refused."""
        await self.commit(Deed(resource=resource, outcome=REFUSED))

    def _record(self, deed: Deed, head: _Head) -> AuditRecord:
        call = current_call()
        record = AuditRecord(
            sequence=head.sequence + 1,
            actor=deed.actor,
            action=deed.action,
            resource=deed.resource,
            outcome=deed.outcome,
        )
        record.time.FromDatetime(self._clock.now())
        if call is not None:
            record.actor = deed.actor or (call.principal.name if call.principal is not None else call.peer)
            record.action = deed.action or call.method.path.lstrip("/")
            record.trace_id = f"{call.trace.trace_id:032x}" if call.trace is not None else ""
            record.source = call.context.peer()
        record.digest = digest(head.digest, record)
        return record


def digest(previous: bytes, record: AuditRecord) -> bytes:
    """The link of the chain: over the previous digest and everything in the record but its own digest."""
    content = AuditRecord()
    content.CopyFrom(record)
    content.ClearField("digest")
    return hashlib.sha256(previous + content.SerializeToString(deterministic=True)).digest()


def first_broken(records: Iterable[AuditRecord], head: credentials_pb2.AuditHead) -> int | None:
    """The sequence number at which a chain, from the first record to the head, does not hold; None if it does."""
    previous, sequence = b"", 0
    for record in records:
        sequence += 1
        if record.sequence != sequence or record.digest != digest(previous, record):
            return sequence
        previous = record.digest
    return None if (head.sequence, head.digest) == (sequence, previous) else sequence + 1


def _head_of(entry: Entry | None) -> _Head:
    if entry is None:
        return _Head(sequence=0, digest=b"", revision=0)
    head = credentials_pb2.AuditHead.FromString(entry.value)
    return _Head(sequence=head.sequence, digest=head.digest, revision=entry.mod_revision)
