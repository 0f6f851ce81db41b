"""Finds records: by time, actor, action, resource, outcome and trace, within one project or in the whole log."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

from chassis.kv import KV
from chassis.paging import Pager, page_size
from lepton.audit.batch import Batch
from lepton.audit.record import Malformed, Record
from lepton.auth.v1.audit_service_pb2 import QueryAuditRequest
from lepton.errors import InvalidArgument
from lepton.names import ProjectName
from services.auth.audit_log import stored

_PREFIX: Final = "audit"
_MOST_BATCHES: Final = 32  # looked into for one page, so that a filter that nothing matches ends too


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is looked for; empty conditions always hold."""

    project: str = ""
    start_ns: int = 0
    end_ns: int = 0
    actor: str = ""
    action: str = ""
    resource: str = ""
    outcome: int = 0
    trace_id: str = ""
    after: int = 0

    def meets(self, batch: Batch) -> bool:
        """Whether a batch can hold what is looked for."""
        is_in_time = batch.end_ns >= self.start_ns and (not self.end_ns or batch.begin_ns < self.end_ns)
        return is_in_time and batch.last > self.after

    def takes(self, record: Record) -> bool:
        """Whether a record is one of those."""
        return (
            record.sequence > self.after
            and (not self.project or record.project == self.project)
            and record.time_ns >= self.start_ns
            and (not self.end_ns or record.time_ns < self.end_ns)
            and (not self.actor or record.actor == self.actor)
            and (not self.action or self.action in (record.action, record.action.rpartition("/")[2]))
            and (not self.resource or (record.resource + "/").startswith(self.resource + "/"))
            and (not self.outcome or record.outcome == self.outcome)
            and (not self.trace_id or record.trace_id == self.trace_id)
        )


def filter_of(request: QueryAuditRequest) -> Filter:
    """The filter of a request; InvalidArgument when it cannot be one."""
    fields = {}
    for name in ("start_time", "end_time"):
        time = getattr(request, name)
        if time.ToNanoseconds() < 0 or not 0 <= time.nanos < 1_000_000_000:
            fields[name] = "must be a time since 1970"
    if fields:
        raise InvalidArgument("INVALID_FIELD", fields=fields)
    return Filter(
        project=ProjectName.parse(request.parent, "parent").project if request.parent else "",
        start_ns=request.start_time.ToNanoseconds(),
        end_ns=request.end_time.ToNanoseconds(),
        actor=request.actor,
        action=request.action.lstrip("/"),
        resource=request.resource.rstrip("/"),
        outcome=request.outcome,
        trace_id=request.trace_id,
        after=request.after,
    )


class AuditQuery:
    """Reads pages of records; a page goes on behind a sequence number, so what is added meanwhile does not disturb."""

    def __init__(self, kv: KV, pager: Pager) -> None:
        self._kv = kv
        self._pager = pager
        self._batches: list[Batch] = []  # heads never change, so they are read once

    async def page(self, request: QueryAuditRequest) -> tuple[list[Record], str]:
        """The records of the page that the request asks for, and the token of the next one."""
        wanted, size = filter_of(request), page_size(request)
        position = self._pager.position(_PREFIX, request)
        found: list[Record] = []
        behind = ""
        async for records, at in self._parts(wanted, int(position) if position else 0, request.newest_first):
            for record in records:
                if wanted.takes(record):
                    if len(found) == size:
                        return found, self._pager.token(_PREFIX, request, str(found[-1].sequence))
                    found.append(record)
            behind = at
        return found, self._pager.token(_PREFIX, request, behind) if behind else ""

    async def _parts(
        self, wanted: Filter, position: int, newest_first: bool
    ) -> AsyncIterator[tuple[Iterable[Record], str]]:
        """Runs of records behind a position, and where to go on when too much was looked into ("" = to the end)."""
        blocks, _ = await stored.read_blocks(self._kv)
        await self._follow()
        sealed = self._batches[-1].last if self._batches else 0
        open_records = [each for each in _parsed(stored.records_in(blocks)) if each.sequence > sealed]
        if newest_first:
            yield _behind(open_records, position, newest_first=True), ""
        looked = 0
        for batch in reversed(self._batches) if newest_first else self._batches:
            if not wanted.meets(batch) or (
                position and (batch.first >= position if newest_first else batch.last <= position)
            ):
                continue
            looked += 1
            body = await stored.read_body(self._kv, batch.index)
            records = _behind(_parsed(body.records) if body is not None else (), position, newest_first=newest_first)
            if looked == _MOST_BATCHES:
                yield records, str(batch.first if newest_first else batch.last)
                return
            yield records, ""
        if not newest_first:
            yield _behind(open_records, position, newest_first=False), ""

    async def _follow(self) -> None:
        after = self._batches[-1].index if self._batches else -1
        self._batches += [batch for batch in await stored.read_batches(self._kv, after) if batch.index > after]


def _behind(records: Iterable[Record], position: int, *, newest_first: bool) -> Iterable[Record]:
    if newest_first:
        return [each for each in reversed(list(records)) if not position or each.sequence < position]
    return [each for each in records if each.sequence > position]


def _parsed(stored_records: Iterable[bytes]) -> list[Record]:
    records = []
    for data in stored_records:
        try:
            records.append(Record.parse(data))
        except Malformed:
            continue  # VerifyAudit says so
    return records
