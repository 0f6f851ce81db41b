"""The scheduler's state in memory: a replica of what lies in etcd, kept up by one watch and read by everything here."""

import asyncio
import heapq
import itertools
from collections.abc import Iterable
from contextlib import aclosing
from types import MappingProxyType

from chassis.clock import Clock
from chassis.kv import KV, Entry, Event, WatchBatch, follow
from lepton.internal.v1 import ledger_pb2, tasks_pb2
from lepton.names import FloatingResourceName, NodeName, PoolName, ProjectName, QueueName, WorkloadName
from lepton.scheduler.v1 import node_pb2, pool_pb2, queue_pb2, workload_pb2
from services.scheduler import keys
from services.scheduler.convert.moments import moments
from services.scheduler.convert.nodes import node_of
from services.scheduler.convert.queues import queue_of
from services.scheduler.convert.reservations import reservation_of
from services.scheduler.lifecycle import ENDED
from services.scheduler.node_settings import merged
from services.scheduler.planner.shares import decayed
from services.scheduler.queue_values import Queue
from services.scheduler.records import AssignmentRecord, Changes, Listener, NodeRecord, QueueRecord, WorkloadRecord
from services.scheduler.snapshot import Assignment, Node, Reservation, Snapshot, Workload
from services.scheduler.workload_values import value_of


class Ledger:
    """Pools, nodes, workloads, assignments and slice states as of one revision."""

    def __init__(self, kv: KV, clock: Clock, *, settled_s: float = 300.0, cooled_s: float = 60.0) -> None:
        self.revision = 0
        self._settled_s, self._cooled_s = settled_s, cooled_s
        self.synced = asyncio.Event()
        self.changed = asyncio.Event()  # for the planner, which clears it
        self.pools: dict[str, pool_pb2.Pool] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.node_settings: dict[str, Entry] = {}
        self.workloads: dict[str, WorkloadRecord] = {}
        self.assignments: dict[str, dict[int, AssignmentRecord]] = {}
        self.queues: dict[str, QueueRecord] = {}
        self.queues_revision = 0  # of the last change of any of them
        self.floating: dict[str, queue_pb2.FloatingResource] = {}
        self.reservations: dict[str, Reservation] = {}
        self.usage: dict[str, ledger_pb2.ProjectUsage] = {}
        self._assigned: dict[str, tuple[Assignment, ...]] = {}  # as of the last snapshot
        self._reassigned: set[str] = set()  # whose part of it is out of date
        self._on_node: dict[str, set[tuple[str, int]]] = {}
        self._active: dict[str, Workload] = {}
        self._node_values: dict[str, Node] = {}
        self._queue_values: dict[str, Queue] = {}
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
        """What the planner looks at; valid until the loop runs again, since it shows the ledger.

        It costs what has changed since the last one, however much there is.
        """
        for name in self._reassigned:
            records = self.assignments.get(name)
            if records is None:
                self._assigned.pop(name, None)
            else:
                self._assigned[name] = tuple(records[generation].value for generation in sorted(records))
        self._reassigned.clear()
        return Snapshot(
            pools=frozenset(self.pools),
            nodes=MappingProxyType(self._node_values),
            workloads=MappingProxyType(self._active),
            assignments=MappingProxyType(self._assigned),
            gone=MappingProxyType(self._gone),
            fence_s=fence_s,
            settled_s=self._settled_s,
            cooled_s=self._cooled_s,
            queues=MappingProxyType(self._queue_values),
            floating={name: each.capacity for name, each in self.floating.items()},
            reservations=MappingProxyType(self.reservations),
            usage=self._usage_now(),
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
                    changes.are_pools_others = True
                case "nodes":
                    self._node(rest.split("/"), event, changes)
                case "node_settings":
                    self._node_settings(rest.split("/"), event)
                case "workloads":
                    self._workload(rest.split("/"), event)
                case "assignments":
                    self._assignment(rest.split("/"), event, changes)
                case "statuses":
                    self._status(rest.split("/"), event, changes)
                case "queues":
                    self._queue(rest, event)
                case "floating_resources":
                    self._floating(rest, event)
                case "reservations":
                    self._reservation(rest.split("/"), event)
                case "usage":
                    self._usage(rest, event)
                    continue  # it changes the order, not what could be placed
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
        self._merge_node(name, event.entry)
        self._gone.pop(name, None)

    def _node_settings(self, parts: list[str], event: Event) -> None:
        name = str(NodeName(*parts))
        if event.entry is None:
            self.node_settings.pop(name, None)
        else:
            self.node_settings[name] = event.entry
        if name in self.nodes:
            self._merge_node(name, self.nodes[name].entry)

    def _merge_node(self, name: str, entry: Entry) -> None:
        """The node as its agent declares it, under what an operator has set on it."""
        settings = self.node_settings.get(name)
        known = ledger_pb2.NodeSettings.FromString(settings.value) if settings else None
        proto = merged(node_pb2.Node.FromString(entry.value), known)
        self.nodes[name] = record = NodeRecord(proto=proto, value=node_of(proto), entry=entry)
        self._node_values[name] = record.value

    def _workload(self, parts: list[str], event: Event) -> None:
        name = _workload_name(parts)
        before = self.workloads.pop(name, None)
        self._active.pop(name, None)
        if event.entry is None:
            return
        proto = workload_pb2.Workload.FromString(event.entry.value)
        value = value_of(before, proto, moments(self._clock), self._clock.monotonic())
        self.workloads[name] = WorkloadRecord(proto=proto, value=value, mod_revision=event.entry.mod_revision)
        if value.state not in ENDED:
            self._active[name] = value

    def _queue(self, queue: str, event: Event) -> None:
        name = str(QueueName(queue))
        self.queues_revision = event.revision
        if event.entry is None:
            self.queues.pop(name, None)
            self._queue_values.pop(name, None)
            return
        proto = queue_pb2.Queue.FromString(event.entry.value)
        record = QueueRecord(proto=proto, value=queue_of(proto), mod_revision=event.entry.mod_revision)
        self.queues[name], self._queue_values[name] = record, record.value

    def _floating(self, resource: str, event: Event) -> None:
        name = str(FloatingResourceName(resource))
        if event.entry is None:
            self.floating.pop(name, None)
        else:
            self.floating[name] = queue_pb2.FloatingResource.FromString(event.entry.value)

    def _reservation(self, parts: list[str], event: Event) -> None:
        name = str(WorkloadName(*parts))
        if event.entry is None:
            self.reservations.pop(name, None)
            return
        proto = ledger_pb2.Reservation.FromString(event.entry.value)
        self.reservations[name] = reservation_of(proto, moments(self._clock))

    def _usage(self, project: str, event: Event) -> None:
        name = str(ProjectName(project))
        if event.entry is None:
            self.usage.pop(name, None)
        else:
            self.usage[name] = ledger_pb2.ProjectUsage.FromString(event.entry.value)

    def _usage_now(self) -> dict[str, float]:
        """What each project has used, as of now: what was sampled, decayed since."""
        now_ns = int(self._clock.now().timestamp() * 1e9)
        return {
            name: decayed(each.dominant_share_s, (now_ns - each.sample_time.ToNanoseconds()) / 1e9, each.half_life_s)
            for name, each in self.usage.items()
            if each.half_life_s > 0
        }

    def _assignment(self, parts: list[str], event: Event, changes: Changes) -> None:
        name, generation = _workload_name(parts), int(parts[2])
        self._reassigned.add(name)
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
            if record.tasks is not None and proto.serial > record.proto.serial:
                changes.grown.append((record, record.proto.serial))
            self._leave(record, record.proto.sessions.keys() - proto.sessions.keys())
            record.update(proto, event.entry.mod_revision)
        if record.is_revoked:
            changes.revoked.append(record)
        for node in proto.sessions:
            self._on_node.setdefault(node, set()).add((name, generation))
            if node not in self.nodes:
                self._gone.setdefault(node, self._clock.monotonic())

    def _unplace(self, record: AssignmentRecord) -> None:
        self._leave(record, record.proto.sessions)

    def _leave(self, record: AssignmentRecord, nodes: Iterable[str]) -> None:
        for node in nodes:
            here = self._on_node.get(node, set())
            here.discard((record.proto.workload, record.proto.generation))
            if not here:
                self._on_node.pop(node, None)

    def _status(self, parts: list[str], event: Event, changes: Changes) -> None:
        name = _workload_name(parts)
        record = self.assignment(name, int(parts[2]))
        if record is None or event.entry is None:
            return
        self._reassigned.add(name)
        if record.tasks is not None:
            states = tasks_pb2.TaskStates.FromString(event.entry.value)
            record.report_tasks(str(NodeName(*parts[3:])), states, event.entry.mod_revision)
            return
        status = workload_pb2.Slice.FromString(event.entry.value)
        record.report(status)
        changes.reported.append((record, status))


def _workload_name(parts: list[str]) -> str:
    """The name that begins a key. It was checked before it was written: that costs more than all else here."""
    return f"projects/{parts[0]}/workloads/{parts[1]}"
