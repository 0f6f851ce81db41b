"""All sessions of this replica: opened, kept alive by heartbeats, taken over, expired, and closed in good order."""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Final
from weakref import WeakValueDictionary

from chassis import telemetry
from chassis.clock import Clock
from chassis.kv import KV, Delete, Entry, Get, KVError, Lease, LeaseNotFound, Put, mod, present
from chassis.logs import logger
from lepton.errors import Aborted, FailedPrecondition
from lepton.internal.v1 import node_session_pb2
from lepton.names import NodeName
from lepton.scheduler.v1 import node_pb2
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.convert.moments import timestamp
from services.scheduler.ledger import Ledger
from services.scheduler.records import Changes
from services.scheduler.sessions.joining import joining_name
from services.scheduler.sessions.leases import Leases, is_held
from services.scheduler.sessions.session import Session
from services.scheduler.sessions.stream import Stream

log = logger(__name__)

SESSIONS = telemetry.gauge("scheduler_node_sessions", "Sessions of node agents at this replica")
HEARTBEATS = telemetry.counter("scheduler_heartbeats_total", "Heartbeats received from agents")
EXPIRED = telemetry.counter("scheduler_node_sessions_expired_total", "Sessions whose heartbeats stopped")
_RESTORE_TOGETHER: Final = 32


class Sessions:
    """Who is connected here."""

    def __init__(self, kv: KV, ledger: Ledger, leases: Leases, clock: Clock, *, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self._ack_every_s = ttl_s / 6
        self._beats = 0
        self._kv = kv
        self._ledger = ledger
        self._leases = leases
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: asyncio.TaskGroup | None = None

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def get(self, node: str) -> Session | None:
        """The session of a node, if it is here."""
        return self._sessions.get(node)

    async def run(self) -> None:
        """Keep the leases and look for heartbeats that have stopped, for ever."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._leases.run(self._restore_all))
            self._tasks.create_task(self._expire_forever())

    async def name(self, hello: node_session_pb2.Hello) -> NodeName:
        """The name under which the node joins; a pool that it leaves open is filled in."""
        await self._ledger.synced.wait()
        name = joining_name(hello.node, self._ledger.pools.values())
        hello.node.name = str(name)
        return name

    async def open(self, hello: node_session_pb2.Hello, stream: Stream) -> Session:
        """Begin a session, or continue the one that the hello names; a stream that the node had before is ended."""
        await self._ledger.synced.wait()
        name = NodeName.parse(hello.node.name, "hello.node.name")
        lock = self._opening.setdefault(str(name), asyncio.Lock())
        async with lock:
            session = Session(
                name=name,
                id=hello.node.session_id or str(uuid.uuid4()),
                hello=hello,
                heard_at=self._clock.monotonic(),
            )
            await self._put(session)
            # What the node should run must be known here before it is told: assignments older than its key's write.
            await self._ledger.reached(session.revision)
            before = self._sessions.get(session.node)
            if before is not None and before.stream is not None:
                before.stream.cut(Aborted("SESSION_SUPERSEDED", node=session.node))
            session.stream = stream
            session.heard_at = self._clock.monotonic()
            self._sessions[session.node] = session
            SESSIONS.set(len(self._sessions))
        log.info("node session opened", node=session.node, session=session.id, continued=bool(hello.node.session_id))
        return session

    def heartbeat(self, session: Session) -> bool:
        """The agent lives; whether to acknowledge it now: only while its key is sure to stay, and not every time.

        An acknowledgement costs as much as a heartbeat, and one every sixth of the TTL keeps an agent from its fence.
        """
        session.heard_at = now = self._clock.monotonic()
        self._beats += 1
        if now - session.acked_at < self._ack_every_s or session.is_over:
            return False
        if session.lease is None or not is_held(session.lease, now):
            return False
        session.acked_at = now
        return True

    def disconnected(self, session: Session, stream: Stream) -> None:
        """The stream has ended; the session lives on until its heartbeats are overdue."""
        if session.stream is stream:
            session.stream = None

    async def close(self, session: Session) -> None:
        """End a session now: the node is gone."""
        session.is_over = True
        key = keys.node(session.name)
        await self._kv.txn([mod(key, session.revision)], [Delete(key)])
        self._drop(session)
        log.info("node session closed", node=session.node, session=session.id)

    def ledger_changed(self, changes: Changes) -> None:
        """Someone else has written or deleted a node's key: take note, or put it back."""
        for node, entry in changes.nodes.items():
            session = self._sessions.get(node)
            if session is None or session.is_over:
                continue
            if entry is None:
                if changes.revision > session.revision and self._tasks is not None:
                    self._tasks.create_task(self._restore(session))
            elif not self._leases.is_ours(entry.lease) and entry.mod_revision > session.revision:
                self._supersede(session)

    async def _put(self, session: Session) -> None:
        """Write the node's key under this replica's lease; the revision of the write is the session's."""
        key, pool = keys.node(session.name), keys.pool(session.name.parent)
        known = self._ledger.nodes.get(session.node)
        entry = known.entry if known else None
        while True:
            lease = await self._leases.lease_of(session.node)
            node = self._node(session, entry)
            compare = [present(pool), mod(key, entry.mod_revision if entry else 0)]
            put = Put(key, stored(node), lease.id)
            try:
                result = await self._kv.txn(compare, [put], [Get(pool), Get(key)])
            except LeaseNotFound:
                await lease.lost.wait()
                continue
            if result.succeeded:
                session.revision, session.lease = result.revision, lease
                return
            if result.responses[0].entry is None:
                raise FailedPrecondition("POOL_NOT_FOUND", pool=str(session.name.parent))
            entry = result.responses[1].entry

    def _node(self, session: Session, entry: Entry | None) -> node_pb2.Node:
        """The node's document. One that goes on keeps what it had; one of another session is not written over by it."""
        before = node_pb2.Node.FromString(entry.value) if entry else None
        is_continued = bool(session.hello.node.session_id) or session.revision > 0
        if is_continued and before is not None and before.session_id != session.id:
            raise Aborted("SESSION_SUPERSEDED", node=session.node)
        node = node_pb2.Node()
        node.CopyFrom(session.hello.node)
        node.session_id = session.id
        node.capacity.device_milli = 1000 * len(node.devices)
        node.ClearField("allocated")
        node.ClearField("etag")
        if before is not None and before.session_id == session.id:
            node.uid, node.state = before.uid, before.state
            node.create_time.CopyFrom(before.create_time)
        else:
            node.uid, node.state = str(uuid.uuid4()), node_pb2.Node.READY
            node.create_time.CopyFrom(timestamp(self._clock.now()))
        return node

    async def _restore_all(self, lease: Lease) -> None:
        """A lost lease has been replaced: put its nodes' keys back."""
        limit = asyncio.Semaphore(_RESTORE_TOGETHER)
        async with asyncio.TaskGroup() as tasks:
            for session in list(self._sessions.values()):
                if self._leases.is_under(session.node, lease):
                    tasks.create_task(self._restore(session, limit))

    async def _restore(self, session: Session, limit: asyncio.Semaphore | None = None) -> None:
        async with limit or asyncio.Semaphore():
            while self._sessions.get(session.node) is session and not session.is_over:
                try:
                    await self._put(session)
                except KVError as error:
                    log.warning("node not restored yet", node=session.node, error=str(error))
                    await self._clock.sleep(self.ttl_s / 10)
                except (Aborted, FailedPrecondition):
                    return self._supersede(session)
                else:
                    return None
        return None

    def _supersede(self, session: Session) -> None:
        session.is_over = True
        if session.stream is not None:
            session.stream.cut(Aborted("SESSION_SUPERSEDED", node=session.node))
        self._drop(session)

    def _drop(self, session: Session) -> None:
        if self._sessions.get(session.node) is session:
            del self._sessions[session.node]
        SESSIONS.set(len(self._sessions))

    async def _expire_forever(self) -> None:
        interval_s = min(1.0, self.ttl_s / 10)
        looked_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(interval_s)
            now = self._clock.monotonic()
            late_s = now - looked_at - interval_s
            looked_at = now
            HEARTBEATS.inc(self._beats)
            self._beats = 0
            for session in list(self._sessions.values()):
                if late_s > interval_s:
                    session.heard_at += late_s  # it is we who were away: their heartbeats lie unread
                if now - session.heard_at > self.ttl_s:
                    await self._expire(session)

    async def _expire(self, session: Session) -> None:
        try:
            await self.close(session)
        except KVError as error:
            log.warning("node not removed yet", node=session.node, error=str(error))
            return
        EXPIRED.inc()
        if session.stream is not None:
            session.stream.cut(Aborted("SESSION_EXPIRED", node=session.node))
