"""What agents say about the tasks of arrays: gathered, stored as one document per node, acknowledged once durable."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from chassis import task_runs as runs
from chassis.clock import Clock
from chassis.kv import KV, Get, KVError, Put, mod, present
from chassis.logs import logger
from lepton.internal.v1 import node_session_pb2, tasks_pb2
from lepton.names import WorkloadName
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.ledger import Ledger
from services.scheduler.records import AssignmentRecord
from services.scheduler.sessions.reports import REPORTS, STALE, stop
from services.scheduler.sessions.session import Session
from services.scheduler.task_table import TaskTable

log = logger(__name__)

MAX_TOGETHER: Final = 32  # documents in one transaction
_RETRY_S: Final = 0.2

_NOTHING: Final = (0, tasks_pb2.TaskStates())  # before a node has said anything

_Slot = tuple[str, int, str]  # workload, generation, node


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    session: Session
    name: WorkloadName
    generation: int
    sequence: int  # 0 = it is ours, and nobody waits for an answer
    states: tasks_pb2.TaskStates

    @property
    def slot(self) -> _Slot:
        return str(self.name), self.generation, self.session.node


@dataclass(frozen=True, slots=True, kw_only=True)
class _Update:
    """What is to be stored of a node's tasks, and whose reports that are."""

    reports: Sequence[_Report]
    key: str
    assignment_key: str
    revision: int  # of what is there
    states: tasks_pb2.TaskStates


class TaskReports:
    """The reports about tasks that wait to be stored."""

    def __init__(self, kv: KV, ledger: Ledger, clock: Clock) -> None:
        self._kv = kv
        self._ledger = ledger
        self._clock = clock
        self._waiting: list[_Report] = []
        self._written: dict[str, tuple[int, tasks_pb2.TaskStates]] = {}  # by key, what is not in the ledger yet
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self, session: Session, report: node_session_pb2.TaskReport) -> None:
        """Queue a report."""
        name = WorkloadName.parse(report.workload, "tasks.workload")
        self._queue(session, name, report.generation, report.sequence, report.states)

    def lost(self, session: Session) -> None:
        """Every task that a session still runs is lost: its agent has left."""
        for record in self._ledger.on_node(session.node):
            if record.tasks is None or record.proto.sessions.get(session.node) != session.id:
                continue
            states = tasks_pb2.TaskStates()
            for each in record.tasks.running(session.node):
                serial = record.tasks.serial(each.index)
                states.ended.add(
                    position=each.index, serial=serial, state=workload_pb2.Slice.LOST, message="its node has left"
                )
            self._queue(session, WorkloadName.parse(record.proto.workload), record.proto.generation, 0, states)

    async def drained(self) -> None:
        """Wait until everything queued so far is stored or refused."""
        await self._idle.wait()

    async def run(self) -> None:
        """Store reports as they come, for ever: all that has come while the last were stored goes together."""
        while True:
            await self._arrived.wait()
            while self._waiting:
                reports, self._waiting = self._waiting, []
                for part in _parts(reports):
                    await self._store(part)
            self._arrived.clear()
            self._idle.set()

    def _queue(
        self, session: Session, name: WorkloadName, generation: int, sequence: int, states: tasks_pb2.TaskStates
    ) -> None:
        self._waiting.append(
            _Report(session=session, name=name, generation=generation, sequence=sequence, states=states)
        )
        self._idle.clear()
        self._arrived.set()

    async def _store(self, part: Sequence[Sequence[_Report]]) -> None:
        """Store what was said about some slots, each once; repeated until it is known to be stored."""
        left = [*part]
        while left:
            try:
                updates = [update for each in left if (update := await self._update(each)) is not None]
                if await self._write(updates):
                    return
                for update in updates:  # one was forgotten, or written by another replica: look at each anew
                    await self._look_again(update.key)
                left = [update.reports for update in updates if not await self._write([update])]
            except KVError as error:
                # Storing is repeatable, so an unknown outcome is one more reason to repeat it.
                log.warning("reports about tasks not stored yet", error=str(error), reports=len(left))
                self._written.clear()
                await self._clock.sleep(_RETRY_S)

    async def _update(self, reports: Sequence[_Report]) -> _Update | None:
        """What to store, or None after the reports were refused."""
        first = reports[-1]
        record = await self._record(first)
        node = first.session.node
        if record is None or record.tasks is None or record.proto.sessions.get(node) != first.session.id:
            for each in reports:
                _refuse(each)
            self._written.pop(keys.task_states(first.name, first.generation, first.session.name), None)
            return None
        key = keys.task_states(first.name, first.generation, first.session.name)
        revision, known = max(record.tasks.states(node), self._written.get(key, _NOTHING), key=lambda each: each[0])
        states = merged(record.tasks, node, [known, *(each.states for each in reports)])
        return _Update(
            reports=reports,
            key=key,
            assignment_key=keys.assignment(first.name, first.generation),
            revision=revision,
            states=states,
        )

    async def _record(self, report: _Report) -> AssignmentRecord | None:
        """The generation, as of the placement that the report is about: this replica may hear of it later."""
        name = str(report.name)
        record = self._ledger.assignment(name, report.generation)
        if record is None or record.proto.serial < report.states.seen_serial:
            entry = await self._kv.get(keys.assignment(report.name, report.generation))
            if entry is not None:
                await self._ledger.reached(entry.mod_revision)
            record = self._ledger.assignment(name, report.generation)
        return record

    async def _look_again(self, key: str) -> None:
        entry = await self._kv.get(key)
        self._written.pop(key, None)
        if entry is not None:
            self._written[key] = entry.mod_revision, tasks_pb2.TaskStates.FromString(entry.value)

    async def _write(self, updates: Sequence[_Update]) -> bool:
        if not updates:
            return True
        wanted = [present(each) for each in dict.fromkeys(update.assignment_key for update in updates)]
        wanted += [mod(update.key, update.revision) for update in updates]
        puts = [Put(update.key, stored(update.states)) for update in updates]
        result = await self._kv.txn(wanted, puts, [Get(update.assignment_key) for update in updates])
        if not result.succeeded:
            is_forgotten = len(updates) == 1 and result.responses[0].entry is None
            for report in updates[0].reports if is_forgotten else ():
                _refuse(report)
            return is_forgotten
        for update in updates:
            self._written[update.key] = result.revision, update.states
            for report in update.reports:
                REPORTS.labels("stored").inc()
                _acknowledge(report)
        for key in [key for key, (revision, _) in self._written.items() if revision <= self._ledger.revision]:
            del self._written[key]
        return True


def merged(table: TaskTable, node: str, states: Iterable[tasks_pb2.TaskStates]) -> tasks_pb2.TaskStates:
    """One after the other; what is about tasks that have left the generation is left out, and what is final stays."""
    seen = 0
    succeeded: dict[int, int] = {}
    ended: dict[int, tasks_pb2.TaskEnd] = {}
    for each in states:
        seen = max(seen, each.seen_serial)
        succeeded |= {
            position: serial
            for position, serial in runs.unpacked(each.succeeded)
            if position not in ended and table.is_on(position, serial, node)
        }
        for end in each.ended:
            if table.is_on(end.position, end.serial, node) and end.position not in succeeded:
                ended.setdefault(end.position, end)
    result = tasks_pb2.TaskStates(seen_serial=seen, ended=[ended[at] for at in sorted(ended)])
    result.succeeded.extend(runs.packed(sorted(succeeded.items())))
    return result


def _parts(reports: Sequence[_Report]) -> Iterator[list[list[_Report]]]:
    """By what they are about, in order, as many as go into a transaction."""
    slots: dict[_Slot, list[_Report]] = {}
    for each in reports:
        slots.setdefault(each.slot, []).append(each)
    found = [*slots.values()]
    return (found[start : start + MAX_TOGETHER] for start in range(0, len(found), MAX_TOGETHER))


def _acknowledge(report: _Report) -> None:
    if report.session.stream is not None and report.sequence:
        ack = node_session_pb2.TaskReportAck(
            workload=str(report.name), generation=report.generation, sequence=report.sequence
        )
        report.session.stream.post(node_session_pb2.OpenSessionResponse(tasks_ack=ack))


def _refuse(report: _Report) -> None:
    REPORTS.labels("stale").inc()
    log.info("stale report of tasks", node=report.session.node, workload=str(report.name), generation=report.generation)
    if report.session.stream is not None:
        report.session.stream.post(stop(str(report.name), report.generation, 0.0, STALE))
