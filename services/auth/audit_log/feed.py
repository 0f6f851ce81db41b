"""Takes what services have recorded into the log, each entry once, and notes when some are missing."""

from collections.abc import Sequence
from typing import Final

from chassis.audit.entry import nanoseconds
from chassis.clock import Clock
from chassis.kv import KV, Put, mod
from lepton.audit.record import Outcome, Record
from lepton.errors import Aborted
from lepton.internal.v1.audit_feed_pb2 import AuditEntry, AuditSource
from services.auth import layout
from services.auth.audit import AuditTrail
from services.auth.audit_log.convert import record_of

_MOST_BYTES: Final = 256 << 10  # of records in one transaction
_ATTEMPTS: Final = 8


class AuditFeed:
    """The way into the log for everything that auth does not write together with its own state."""

    def __init__(self, kv: KV, trail: AuditTrail, clock: Clock) -> None:
        self._kv = kv
        self._trail = trail
        self._clock = clock

    async def append(self, service: str, spool: str, entries: Sequence[AuditEntry]) -> int:
        """Append entries in order; the number of the spool's newest one that is durable."""
        number = 0
        for part in _parts(entries):
            number = await self._append(service, spool, part)
        return number

    async def _append(self, service: str, spool: str, entries: Sequence[AuditEntry]) -> int:
        key = layout.audit_source(service, spool)
        for _ in range(_ATTEMPTS):
            stored = await self._kv.get(key)
            known = AuditSource.FromString(stored.value).number if stored is not None else 0
            fresh = [entry for entry in entries if entry.number > known]
            if not fresh:
                return known
            last = fresh[-1].number
            done = await self._trail.append(
                self._records(service, spool, fresh, known),
                [mod(key, stored.mod_revision if stored is not None else 0)],
                [Put(key, AuditSource(number=last).SerializeToString())],
            )
            if done.succeeded:
                return last
        raise Aborted("WRITE_CONFLICT")

    def _records(self, service: str, spool: str, entries: Sequence[AuditEntry], known: int) -> list[Record]:
        records = []
        for entry in entries:
            if entry.number > known + 1:
                records.append(self._gap(service, spool, known + 1, entry.number - 1))
            records.append(record_of(entry, service))
            known = entry.number
        return records

    def _gap(self, service: str, spool: str, first: int, last: int) -> Record:
        return Record(
            time_ns=nanoseconds(self._clock.now()),
            outcome=Outcome.INTERRUPTED,
            service=service,
            actor=f"service/{service}",
            action="audit.gap",
            resource=f"auditSpools/{spool}",
            reason=f"entries {first}-{last} were lost",
        )


class OwnSink:
    """The log, for what auth records of its own calls."""

    def __init__(self, feed: AuditFeed, service: str) -> None:
        self._feed = feed
        self._service = service

    async def append(self, spool: str, entries: Sequence[AuditEntry]) -> int:
        """Append entries."""
        return await self._feed.append(self._service, spool, entries)


def _parts(entries: Sequence[AuditEntry]) -> list[list[AuditEntry]]:
    parts: list[list[AuditEntry]] = [[]]
    size = 0
    for entry in entries:
        size += entry.ByteSize() + 64
        if size > _MOST_BYTES and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(entry)
    return parts
