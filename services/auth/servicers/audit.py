"""AuditService and AuditFeedService: the audit log, read by people and fed by services."""

from collections.abc import AsyncIterator
from typing import Any

from lepton.audit.verify import Span
from lepton.audit.wire import batch_of, batch_to_proto, tombstone_to_proto
from lepton.auth.v1 import audit_service_pb2 as pb
from lepton.auth.v1 import audit_service_pb2_grpc
from lepton.errors import InvalidArgument
from lepton.internal.v1 import audit_feed_pb2, audit_feed_pb2_grpc
from services.auth.audit_log.check import AuditCheck
from services.auth.audit_log.convert import finding_to_proto, record_to_proto
from services.auth.audit_log.export import AuditExport
from services.auth.audit_log.feed import AuditFeed
from services.auth.audit_log.keys import AuditKeys
from services.auth.audit_log.query import AuditQuery
from services.auth.servicers.caller import the_call


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """Serves the log to people."""

    def __init__(self, query: AuditQuery, check: AuditCheck, export: AuditExport, keys: AuditKeys) -> None:
        self._query = query
        self._check = check
        self._export = export
        self._keys = keys

    async def QueryAudit(self, request: pb.QueryAuditRequest, context: Any) -> pb.QueryAuditResponse:
        records, token = await self._query.page(request)
        whole = not request.parent
        return pb.QueryAuditResponse(
            audit_records=[record_to_proto(record, whole=whole) for record in records], next_page_token=token
        )

    async def VerifyAudit(self, request: pb.VerifyAuditRequest, context: Any) -> pb.VerifyAuditResponse:
        known = batch_of(request.known) if request.HasField("known") else None
        verdict = await self._check.verify(_span(request.first, request.last), known)
        return pb.VerifyAuditResponse(
            findings=map(finding_to_proto, verdict.findings),
            checked=verdict.checked,
            sequence=verdict.sequence,
            head=batch_to_proto(verdict.head) if verdict.head is not None else None,
            keys=[pb.AuditKey(key_id=key_id, public_key=key) for key_id, key in self._keys.public().items()],
            tombstones=map(tombstone_to_proto, verdict.tombstones),
        )

    async def ExportAudit(self, request: pb.ExportAuditRequest, context: Any) -> AsyncIterator[pb.ExportAuditResponse]:
        async for part in self._export.parts(_span(request.first, request.last)):
            yield part


class AuditFeedServicer(audit_feed_pb2_grpc.AuditFeedServiceServicer):
    """Takes the records of the other services."""

    def __init__(self, feed: AuditFeed) -> None:
        self._feed = feed

    async def AppendAudit(
        self, requests: AsyncIterator[audit_feed_pb2.AppendAuditRequest], context: Any
    ) -> audit_feed_pb2.AppendAuditResponse:
        number, service = 0, the_call().peer_service
        async for request in requests:
            number = await self._feed.append(service, request.spool, request.entries)
        return audit_feed_pb2.AppendAuditResponse(number=number)


def _span(first: int, last: int) -> Span:
    if last and last < first:
        raise InvalidArgument("INVALID_FIELD", fields={"last": "must not be before the first, or 0 for the end"})
    return Span(first=max(first, 1), last=last)
