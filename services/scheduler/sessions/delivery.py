"""Tells agents what to run: every assignment goes to the sessions held here, as soon as it is known."""

from chassis.logs import logger
from lepton.internal.v1 import node_session_pb2
from services.scheduler.convert.orders import start_slices, start_tasks
from services.scheduler.ledger import Ledger
from services.scheduler.lifecycle import FINAL
from services.scheduler.records import AssignmentRecord, Changes
from services.scheduler.sessions.registry import Sessions
from services.scheduler.sessions.reports import STALE, stop
from services.scheduler.sessions.session import Session
from services.scheduler.snapshot import SliceState

log = logger(__name__)

Message = node_session_pb2.OpenSessionResponse


class Delivery:
    """The way from the ledger to the agents."""

    def __init__(self, ledger: Ledger, sessions: Sessions) -> None:
        self._ledger = ledger
        self._sessions = sessions

    def greet(self, session: Session) -> None:
        """Tell a session that begins, or goes on, all that its node should run, and what it should be stopping."""
        records = [each for each in self._ledger.on_node(session.node) if _is_for(each, session)]
        wanted = [_start(each, session) for each in records if not each.is_revoked and each.tasks is None]
        tasks = [_start_tasks(each, session) for each in records if not each.is_revoked and each.tasks is not None]
        welcome = node_session_pb2.Welcome(
            session_id=session.id,
            ttl_s=self._sessions.ttl_s,
            assignments=[each for each in wanted if each.slices],
            node=session.node,
            tasks=[each for each in tasks if each.tasks.runs],
        )
        _post(session, Message(welcome=welcome))
        for record in records:
            if record.is_revoked:
                self._stop(record, session)

    def ledger_changed(self, changes: Changes) -> None:
        """Send what follows from a batch. Starts go before stops, so that agents can hand slices over."""
        for record in changes.assigned:
            if not record.is_revoked:
                for session in self._holders(record):
                    self._begin(record, session)
        for record, before in changes.grown:
            for session in self._holders(record) if not record.is_revoked else ():
                message = _start_tasks(record, session, before)
                if message.tasks.runs:
                    _post(session, Message(start_tasks=message))
        for record in changes.revoked:
            for session in self._holders(record):
                self._stop(record, session)
        for record in changes.forgotten:
            for session in self._holders(record):
                if set(_running(record, session)) - self._handed_over(record):
                    _post(session, stop(record.proto.workload, record.proto.generation, 0.0, STALE))
        for record, status in changes.reported:
            if status.index == 0 and status.endpoints.get("store", "") not in ("", record.announced_store):
                self._announce(record, status.node, status.endpoints["store"])

    def _begin(self, record: AssignmentRecord, session: Session) -> None:
        if record.tasks is not None:
            tasks = _start_tasks(record, session)
            if tasks.tasks.runs:
                _post(session, Message(start_tasks=tasks))
            return
        message = _start(record, session)
        if message.slices:
            _post(session, Message(start=message))

    def _announce(self, record: AssignmentRecord, host: str, endpoint: str) -> None:
        """Tell the gang's other nodes where its store answers."""
        record.announced_store = endpoint
        proto = record.proto
        message = node_session_pb2.GangEndpoint(
            workload=proto.workload, generation=proto.generation, store_endpoint=endpoint
        )
        for session in self._holders(record):
            if session.node != host:
                _post(session, Message(gang_endpoint=message))

    def _stop(self, record: AssignmentRecord, session: Session) -> None:
        indices = set(_running(record, session)) - self._handed_over(record)
        if not indices:
            return
        proto = record.proto
        message = stop(proto.workload, proto.generation, proto.grace_s, proto.revoke_reason)
        if record.tasks is not None:
            message.stop.tasks.CopyFrom(record.tasks.orders(session.node, of=indices))
        else:
            message.stop.slices.extend(sorted(indices))
        _post(session, message)

    def _handed_over(self, record: AssignmentRecord) -> set[int]:
        """The slices that go on under the next generation."""
        following = self._ledger.assignment(record.proto.workload, record.proto.generation + 1)
        return set(following.proto.kept) if following else set()

    def _holders(self, record: AssignmentRecord) -> list[Session]:
        """The sessions here for which the generation was made."""
        here = (self._sessions.get(node) for node in record.proto.sessions)
        return [session for session in here if session is not None and _is_for(record, session)]


def _is_for(record: AssignmentRecord, session: Session) -> bool:
    return record.proto.sessions.get(session.node) == session.id


def _start(record: AssignmentRecord, session: Session) -> node_session_pb2.StartSlices:
    return start_slices(record.proto, record.slices(), session.node)


def _start_tasks(record: AssignmentRecord, session: Session, after: int = 0) -> node_session_pb2.StartTasks:
    assert record.tasks is not None
    return start_tasks(record.proto, record.tasks.orders(session.node, after))


def _running(record: AssignmentRecord, session: Session) -> list[int]:
    """The indices of the slices that have not ended on a node, as far as it was reported."""
    if record.tasks is not None:
        return [each.index for each in record.tasks.running(session.node)]
    return [each.index for each in record.slices() if each.node == session.node and SliceState(each.state) not in FINAL]


def _post(session: Session, message: Message) -> None:
    if session.stream is not None:
        session.stream.post(message)
