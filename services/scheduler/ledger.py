"""The scheduler's state in memory: a replica of what lies in etcd, kept up by one watch and read by everything here."""

import asyncio
import heapq
import itertools
from contextlib import aclosing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from chassis.clock import Clock
from chassis.kv import KV, Entry, Event, WatchBatch, follow
from lepton.internal.v1 import ledger_pb2
from lepton.names import NodeName, PoolName, WorkloadName
from lepton.scheduler.v1 import node_pb2, pool_pb2, workload_pb2
from services.scheduler import convert, keys
from services.scheduler.lifecycle import ENDED, backoff_s
from services.scheduler.snapshot import Assignment, Node, Reason, Snapshot, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node with its key's place in etcd."""

    proto: node_pb2.Node
    value: Node
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRecord:
    """A workload with the revision of its document."""

    proto: workload_pb2.Workload
    value: Workload
    mod_revision: int


@dataclass(slots=True, kw_only=True)
class AssignmentRecord:
    """A generation, and the newest report about each of its slices."""

    proto: ledger_pb2.Assignment
    mod_revision: int
    statuses: dict[int, workload_pb2.Slice] = field(default_factory=dict)
    announced_store: str = ""  # what the gang was told
    _value: Assignment | None = None

    @property
    def value(self) -> Assignment:
        """The generation as the planner sees it."""
        if self._value is None:
            self._value = convert.assignment_of(self.proto, self.statuses)
        return self._value

    @property
    def is_revoked(self) -> bool:
        """Whether its slices have been told to stop."""
        return self.proto.HasField("revoke_time")

    def slices(self) -> list[workload_pb2.Slice]:
        """Its slices with their present states."""
        return [self.statuses.get(each.index, each) for each in self.proto.slices]

    def update(self, proto: ledger_pb2.Assignment, mod_revision: int) -> None:
        """Take over a new version of the document."""
        self.proto, self.mod_revision, self._value = proto, mod_revision, None

    def report(self, status: workload_pb2.Slice) -> None:
        """Take over a slice's new state."""
        self.statuses[status.index] = status
        self._value = None


@dataclass(slots=True, kw_only=True)
class Changes:
    """What one batch has changed, for those who act on it."""

    revision: int
    nodes: dict[str, Entry | None] = field(default_factory=dict)
    assigned: list[AssignmentRecord] = field(default_factory=list)
    revoked: list[AssignmentRecord] = field(default_factory=list)
    forgotten: list[AssignmentRecord] = field(default_factory=list)
    reported: list[tuple[AssignmentRecord, workload_pb2.Slice]] = field(default_factory=list)


class Listener(Protocol):
    """Who wants to know at once; must not block."""

    def ledger_changed(self, changes: Changes) -> None:
        """A batch has been applied."""
        ...


class Ledger:
    """Pools, nodes, workloads, assignments and slice states as of one revision."""

    def __init__(self, kv: KV, clock: Clock) -> None:
        self.revision = 0
        self.synced = asyncio.Event()
        self.changed = asyncio.Event()  # for the planner, which clears it
        self.pools: dict[str, pool_pb2.Pool] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.workloads: dict[str, WorkloadRecord] = {}
        self.assignments: dict[str, dict[int, AssignmentRecord]] = {}
        self._on_node: dict[str, set[tuple[str, int]]] = {}
        self._active: dict[str, Workload] = {}
        self._node_values: dict[str, Node] = {}
        self._gone: dict[str, float] = {}
        self._listeners: list[Listener] = []
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._kv = kv
        self._clock = clock

    def listen(self, listener: Listener) -> None:
        """Tell this listener about every batch from now on."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow etcd, for ever."""
        async with aclosing(follow(self._kv, keys.ROOT)) as batches:
            async for batch in batches:
                self.apply(batch)
                self.synced.set()

    async def reached(self, revision: int) -> None:
        """Wait until everything up to this revision is known here. It must be that of a write under our prefix."""
        if self.revision >= revision:
            return
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (revision, next(self._order), arrived))
        await arrived

    def snapshot(self, fence_s: float) -> Snapshot:
        """What the planner looks at; valid until the loop runs again, since it shows the ledger and copies little."""
        return Snapshot(
            pools=frozenset(self.pools),
            nodes=MappingProxyType(self._node_values),
            workloads=MappingProxyType(self._active),
            assignments={
                name: tuple(records[generation].value for generation in sorted(records))
                for name, records in self.assignments.items()
            },
            gone=MappingProxyType(self._gone),
            fence_s=fence_s,
        )

    def assignment(self, workload: str, generation: int) -> AssignmentRecord | None:
        """One generation, if it is not forgotten."""
        return self.assignments.get(workload, {}).get(generation)

    def on_node(self, node: str) -> list[AssignmentRecord]:
        """The generations that have slices on a node, older ones of a workload first."""
        return [self.assignments[name][generation] for name, generation in sorted(self._on_node.get(node, ()))]

    def apply(self, batch: WatchBatch) -> None:
        """Take over one batch."""
        changes = Changes(revision=batch.revision)
        for event in batch.events:
            kind, _, rest = event.key.removeprefix(keys.ROOT).partition("/")
            match kind:
                case "pools":
                    self._pool(rest, event)
                case "nodes":
                    self._node(rest.split("/"), event, changes)
                case "workloads":
                    self._workload(rest.split("/"), event)
                case "assignments":
                    self._assignment(rest.split("/"), event, changes)
                case "statuses":
                    self._status(rest.split("/"), event, changes)
                case _:
                    continue
            self.changed.set()
        self.revision = max(self.revision, batch.revision)
        for listener in self._listeners:
            listener.ledger_changed(changes)
        while self._waiting and self._waiting[0][0] <= self.revision:
            arrived = heapq.heappop(self._waiting)[2]
            if not arrived.done():
                arrived.set_result(None)

    def _pool(self, pool: str, event: Event) -> None:
        name = str(PoolName(pool))
        if event.entry is None:
            self.pools.pop(name, None)
        else:
            self.pools[name] = pool_pb2.Pool.FromString(event.entry.value)

    def _node(self, parts: list[str], event: Event, changes: Changes) -> None:
        name = str(NodeName(*parts))
        changes.nodes[name] = event.entry
        if event.entry is None:
            self.nodes.pop(name, None)
            self._node_values.pop(name, None)
            self._gone[name] = self._clock.monotonic()
            return
        proto = node_pb2.Node.FromString(event.entry.value)
        self.nodes[name] = record = NodeRecord(proto=proto, value=convert.node_of(proto), entry=event.entry)
        self._node_values[name] = record.value
        self._gone.pop(name, None)

    def _workload(self, parts: list[str], event: Event) -> None:
        name = str(WorkloadName(*parts))
        before = self.workloads.pop(name, None)
        self._active.pop(name, None)
        if event.entry is None:
            return
        proto = workload_pb2.Workload.FromString(event.entry.value)
        value = convert.workload_of(proto, self._not_before(before, proto))
        self.workloads[name] = WorkloadRecord(proto=proto, value=value, mod_revision=event.entry.mod_revision)
        if value.state not in ENDED:
            self._active[name] = value

    def _not_before(self, before: WorkloadRecord | None, now: workload_pb2.Workload) -> float:
        """The end of the backoff, on this process's clock: it begins when the restart is first seen here."""
        if before is not None and now.restarts <= before.proto.restarts:
            return before.value.not_before
        if before is None and Reason(now.pending_reason) is not Reason.BACKING_OFF:
            return 0.0
        return self._clock.monotonic() + backoff_s(now.restarts)

    def _assignment(self, parts: list[str], event: Event, changes: Changes) -> None:
        name, generation = str(WorkloadName(*parts[:2])), int(parts[2])
        records = self.assignments.setdefault(name, {})
        record = records.get(generation)
        if event.entry is None:
            if record is not None:
                changes.forgotten.append(records.pop(generation))
                self._unplace(record)
            if not records:
                del self.assignments[name]
            return
        proto = ledger_pb2.Assignment.FromString(event.entry.value)
        if record is None:
            record = records[generation] = AssignmentRecord(proto=proto, mod_revision=event.entry.mod_revision)
            changes.assigned.append(record)
        else:
            record.update(proto, event.entry.mod_revision)
        if record.is_revoked:
            changes.revoked.append(record)
        for node in proto.sessions:
            self._on_node.setdefault(node, set()).add((name, generation))
            if node not in self.nodes:
                self._gone.setdefault(node, self._clock.monotonic())

    def _unplace(self, record: AssignmentRecord) -> None:
        for node in record.proto.sessions:
            here = self._on_node.get(node, set())
            here.discard((record.proto.workload, record.proto.generation))
            if not here:
                self._on_node.pop(node, None)

    def _status(self, parts: list[str], event: Event, changes: Changes) -> None:
        record = self.assignment(str(WorkloadName(*parts[:2])), int(parts[2]))
        if record is None or event.entry is None:
            return
        status = workload_pb2.Slice.FromString(event.entry.value)
        record.report(status)
        changes.reported.append((record, status))
