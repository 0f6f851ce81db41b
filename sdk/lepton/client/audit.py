"""`client.audit`: the audit log, read, followed, checked and exported."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from lepton.auth.v1 import audit_service_pb2 as pb
from lepton.auth.v1.audit_service_pb2_grpc import AuditServiceStub
from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope

ORGANISATION = "*"
_POLL_S = 1.0


class Audit(Group):
    """Reads the log; `project="*"` means the whole organisation."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = AuditServiceStub(calls.channel("auth"))

    def query(
        self,
        *,
        project: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        actor: str = "",
        action: str = "",
        resource: str = "",
        outcome: pb.AuditRecord.Outcome.ValueType = pb.AuditRecord.OUTCOME_UNSPECIFIED,
        trace_id: str = "",
        newest_first: bool = False,
        after: int = 0,
        page_size: int = 0,
    ) -> Listing[pb.AuditRecord]:
        """The records that meet all conditions, oldest first unless told otherwise."""
        wanted = pb.QueryAuditRequest(
            parent="" if project == ORGANISATION else self._scope.parent(project),
            page_size=page_size,
            actor=actor,
            action=action,
            resource=resource,
            outcome=outcome,
            trace_id=trace_id,
            newest_first=newest_first,
            after=after,
        )
        if since is not None:
            wanted.start_time.FromDatetime(since.astimezone(UTC))
        if until is not None:
            wanted.end_time.FromDatetime(until.astimezone(UTC))

        async def page(token: str) -> Page[pb.AuditRecord]:
            request = pb.QueryAuditRequest()
            request.CopyFrom(wanted)
            request.page_token = token
            answer = await self._calls.unary(self._stub.QueryAudit, request)
            return answer.audit_records, answer.next_page_token

        return Listing(page)

    async def tail(
        self, count: int = 20, *, project: str | None = None, actor: str = "", resource: str = ""
    ) -> AsyncGenerator[pb.AuditRecord, None]:
        """The newest records, then every further one, for ever."""
        newest: list[pb.AuditRecord] = []
        listing = self.query(
            project=project, actor=actor, resource=resource, newest_first=True, page_size=max(1, count)
        )
        async for record in listing:
            newest.append(record)
            if len(newest) >= max(1, count):
                break
        last = newest[:1] or [record async for record in _first(self.query(project=project, newest_first=True))]
        after = last[0].sequence if last else 0
        for record in reversed(newest[:count]):
            yield record
        while True:
            await asyncio.sleep(_POLL_S)
            further = self.query(project=project, actor=actor, resource=resource, after=after, page_size=1000)
            async for record in further:
                after = record.sequence
                yield record

    async def verify(
        self, *, first: int = 0, last: int = 0, known: pb.AuditBatch | None = None
    ) -> pb.VerifyAuditResponse:
        """Have the log checked; `known` is a head of an earlier answer, from which the log must go on."""
        request = pb.VerifyAuditRequest(first=first, last=last, known=known)
        return await self._calls.unary(self._stub.VerifyAudit, request, timeout_s=300.0)

    async def export(self, *, first: int = 0, last: int = 0) -> AsyncGenerator[pb.ExportAuditResponse, None]:
        """The log with its proof, part by part. A break in between raises: half a log proves nothing."""
        await self._calls.attempt(self._calls.signed_in.ready)
        async for part in self._stub.ExportAudit(pb.ExportAuditRequest(first=first, last=last)):
            yield part


async def _first(listing: Listing[pb.AuditRecord]) -> AsyncGenerator[pb.AuditRecord, None]:
    async for record in listing:
        yield record
        return
