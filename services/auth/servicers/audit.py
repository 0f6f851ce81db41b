"""AuditService: reads the audit trail."""

from typing import Any

from lepton.auth.v1 import audit_service_pb2 as pb
from lepton.auth.v1 import audit_service_pb2_grpc
from services.auth import layout
from services.auth.store import Store


class AuditServicer(audit_service_pb2_grpc.AuditServiceServicer):
    """Serves audit records."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, context: Any) -> pb.ListAuditRecordsResponse:
        records, token = await self._store.page(layout.AUDIT_RECORDS, request, pb.AuditRecord)
        return pb.ListAuditRecordsResponse(audit_records=records, next_page_token=token)
