"""What agents say about their slices: stored in order, many in one transaction, acknowledged once durable."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chassis import telemetry
from chassis.clock import Clock
from chassis.kv import KV, KVError, Put, present
from chassis.logs import logger
from lepton.internal.v1 import node_session_pb2
from lepton.names import WorkloadName
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.convert.slices import reported
from services.scheduler.ledger import Ledger
from services.scheduler.lifecycle import FINAL
from services.scheduler.records import AssignmentRecord
from services.scheduler.sessions.session import Session
from services.scheduler.snapshot import SliceState

log = logger(__name__)

MAX_BATCH: Final = 50
_RETRY_S: Final = 0.2
STALE: Final = "stale"  # the reason given to agents for generations that nobody wants to hear of

REPORTS = telemetry.counter("scheduler_slice_reports_total", "Slice reports by outcome", ("outcome",))

_Slot = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report and who made it."""

    session: Session
    name: WorkloadName
    generation: int
    slice: workload_pb2.Slice

    @property
    def slot(self) -> _Slot:
        """Which slice it is about."""
        return str(self.name), self.generation, self.slice.index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Update:
    """A report that is to be stored."""

    report: Report
    stored: workload_pb2.Slice

    @property
    def assignment_key(self) -> str:
        return keys.assignment(self.report.name, self.report.generation)

    @property
    def put(self) -> Put:
        key = keys.status(self.report.name, self.report.generation, self.report.slice.index)
        return Put(key, stored(self.stored))


class Reports:
    """The reports that wait to be stored."""

    def __init__(self, kv: KV, ledger: Ledger, clock: Clock) -> None:
        self._kv = kv
        self._ledger = ledger
        self._clock = clock
        self._waiting: deque[Report] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self, session: Session, report: node_session_pb2.SliceReport) -> None:
        """Queue a report."""
        name = WorkloadName.parse(report.workload, "slice.workload")
        self._waiting.append(Report(session=session, name=name, generation=report.generation, slice=report.slice))
        self._idle.clear()
        self._arrived.set()

    async def drained(self) -> None:
        """Wait until everything queued so far is stored or refused."""
        await self._idle.wait()

    async def run(self) -> None:
        """Store reports as they come, for ever."""
        while True:
            await self._arrived.wait()
            while self._waiting:
                await self._store(self._next_batch())
            self._arrived.clear()
            self._idle.set()

    def lost(self, session: Session) -> None:
        """Everything that a session still runs is lost: its agent has left."""
        for record in self._ledger.on_node(session.node):
            if record.proto.sessions[session.node] != session.id:
                continue
            for each in record.slices():
                if each.node == session.node and SliceState(each.state) not in FINAL:
                    state = workload_pb2.Slice.LOST
                    gone = workload_pb2.Slice(index=each.index, state=state, message="its node has left")
                    report = node_session_pb2.SliceReport(
                        workload=record.proto.workload, generation=record.proto.generation, slice=gone
                    )
                    self.take(session, report)

    def _next_batch(self) -> list[Report]:
        """The oldest reports, at most one about each slice."""
        batch: dict[_Slot, Report] = {}
        while self._waiting and len(batch) < MAX_BATCH and self._waiting[0].slot not in batch:
            report = self._waiting.popleft()
            batch[report.slot] = report
        return list(batch.values())

    async def _store(self, batch: Sequence[Report]) -> None:
        while True:
            try:
                updates = [update for report in batch if (update := await self._update(report)) is not None]
                if not await self._write(updates):
                    for update in updates:  # one generation among them has been forgotten meanwhile
                        if not await self._write([update]):
                            _refuse(update.report)
            except KVError as error:
                # Storing is repeatable, so an unknown outcome is one more reason to repeat it.
                log.warning("reports not stored yet", error=str(error), reports=len(batch))
                await self._clock.sleep(_RETRY_S)
            else:
                return

    async def _update(self, report: Report) -> _Update | None:
        """What to store of a report, or None after it was answered."""
        record = await self._record(report)
        session = report.session
        assigned = _assigned(record, report.slice.index) if record else None
        if record is None or assigned is None or assigned.node != session.node:
            _refuse(report)
            return None
        if record.proto.sessions.get(session.node) != session.id:
            _refuse(report)
            return None
        known = record.statuses.get(report.slice.index)
        if known is not None and SliceState(known.state) in FINAL:
            _acknowledge(report, known.state)  # what is final stays
            return None
        return _Update(report=report, stored=reported(assigned, report.slice))

    async def _record(self, report: Report) -> AssignmentRecord | None:
        """The generation, also when this replica has not heard of it yet."""
        record = self._ledger.assignment(str(report.name), report.generation)
        if record is None:
            entry = await self._kv.get(keys.assignment(report.name, report.generation))
            if entry is not None:
                await self._ledger.reached(entry.mod_revision)
                record = self._ledger.assignment(str(report.name), report.generation)
        return record

    async def _write(self, updates: Sequence[_Update]) -> bool:
        if not updates:
            return True
        wanted = [present(key) for key in dict.fromkeys(update.assignment_key for update in updates)]
        result = await self._kv.txn(wanted, [update.put for update in updates])
        if result.succeeded:
            for update in updates:
                REPORTS.labels("stored").inc()
                _acknowledge(update.report, update.stored.state)
        return result.succeeded


def _assigned(record: AssignmentRecord, index: int) -> workload_pb2.Slice | None:
    slices = record.proto.slices
    if 0 <= index < len(slices) and slices[index].index == index:  # as it is unless slices were dropped
        return slices[index]
    return next((each for each in slices if each.index == index), None)


def _acknowledge(report: Report, state: workload_pb2.Slice.State.ValueType) -> None:
    if report.session.stream is not None:
        ack = node_session_pb2.SliceReportAck(
            workload=str(report.name), generation=report.generation, index=report.slice.index, state=state
        )
        report.session.stream.post(node_session_pb2.OpenSessionResponse(slice_ack=ack))


def _refuse(report: Report) -> None:
    REPORTS.labels("stale").inc()
    log.info("stale report", node=report.session.node, workload=str(report.name), generation=report.generation)
    if report.session.stream is not None:
        report.session.stream.post(stop(str(report.name), report.generation, 0.0, STALE))


def stop(
    workload: str, generation: int, grace_s: float, reason: str, slices: Sequence[int] = ()
) -> node_session_pb2.OpenSessionResponse:
    """The order to stop these slices of a generation; none = all."""
    order = node_session_pb2.StopSlices(
        workload=workload, generation=generation, grace_s=grace_s, reason=reason, slices=slices
    )
    return node_session_pb2.OpenSessionResponse(stop=order)
