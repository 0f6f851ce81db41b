"""The log as it goes out: keys, batches with their records, and the end, so that it can be checked elsewhere."""

from collections.abc import AsyncIterator

from chassis.kv import KV, Compacted
from lepton.audit.verify import Span
from lepton.audit.wire import batch_to_proto, tombstone_to_proto
from lepton.auth.v1 import audit_service_pb2 as pb
from lepton.errors import OutOfRange
from services.auth.audit_log import stored
from services.auth.audit_log.check import AuditCheck
from services.auth.audit_log.keys import AuditKeys


class AuditExport:
    """Streams the log as it is at one revision of the store. All heads go out, whatever the range: they prove it."""

    def __init__(self, kv: KV, keys: AuditKeys, check: AuditCheck) -> None:
        self._kv = kv
        self._keys = keys
        self._check = check

    async def parts(self, span: Span) -> AsyncIterator[pb.ExportAuditResponse]:
        """The parts, in order."""
        await self._keys.refresh()
        for key_id, public_key in self._keys.public().items():
            yield pb.ExportAuditResponse(key=pb.AuditKey(key_id=key_id, public_key=public_key))
        log, revision, _ = await self._check.frame()
        try:
            for batch in log.batches:
                part = pb.ExportAuditResponse.Batch(head=batch_to_proto(batch))
                if batch.index in log.tombstones:
                    part.tombstone.CopyFrom(tombstone_to_proto(log.tombstones[batch.index]))
                if span.meets(batch.first, batch.last):
                    body = await stored.read_body(self._kv, batch.index, revision)
                    if body is not None:
                        part.body.CopyFrom(pb.AuditBody(records=body.records, leaves=body.leaves))
                yield pb.ExportAuditResponse(batch=part)
        except Compacted as error:
            raise OutOfRange("REVISION_COMPACTED", revision=str(error.compact_revision)) from error
        end = pb.ExportAuditResponse.End(records=log.unsealed, range_first=span.first, range_last=span.last)
        if log.head is not None:
            end.sequence, end.digest = log.head.sequence, log.head.digest
        if log.anchor is not None:
            end.anchor.CopyFrom(batch_to_proto(log.anchor))
        yield pb.ExportAuditResponse(end=end)
