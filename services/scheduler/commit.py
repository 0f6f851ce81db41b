"""Carries a plan out: each decision as guarded writes, many decisions in one transaction."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis import telemetry
from chassis.clock import Clock
from chassis.kv import KV, Compare, Delete, DeletePrefix, Get, KVError, Op, Put, absent, mod
from chassis.logs import logger
from lepton.internal.v1 import ledger_pb2
from lepton.names import NodeName, WorkloadName
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.convert.failures import failures_to_proto
from services.scheduler.convert.moments import timestamp
from services.scheduler.convert.reservations import reservation_to_proto
from services.scheduler.convert.slices import slice_to_proto
from services.scheduler.ledger import Ledger
from services.scheduler.lifecycle import ENDED
from services.scheduler.planner import Decision, Placement, Revocation
from services.scheduler.records import WorkloadRecord
from services.scheduler.snapshot import State
from services.scheduler.task_commit import add_array, is_current, task_writes, tell_array

log = logger(__name__)

MAX_OPS: Final = 50  # measured: 15 times the rate of one transaction per change, well within etcd's 128
MAX_BYTES: Final = 1 << 20
IN_FLIGHT: Final = 8


class LeadershipLost(Exception):
    """Another replica leads: nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Decisions that stand or fall together, as the conditions and operations of a transaction."""

    decisions: tuple[Decision, ...]
    compare: tuple[Compare, ...]
    then: tuple[Op, ...]

    @property
    def ops(self) -> int:
        """What it counts for among the operations of a transaction."""
        return max(len(self.then), len(self.compare))

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return sum(len(op.value) for op in self.then if isinstance(op, Put))


class Committer:
    """Writes decisions under the leader's guard."""

    def __init__(self, kv: KV, ledger: Ledger, clock: Clock) -> None:
        self._kv = kv
        self._ledger = ledger
        self._clock = clock

    async def commit(
        self, decisions: Iterable[Decision], guard: Compare, traces: Mapping[str, str], dropped: Iterable[str] = ()
    ) -> tuple[int, int]:
        """Write what still holds; the revision of the last write, and how many decisions were overtaken by events.

        `traces`: the trace context under which each placed workload goes on; `dropped`: whose reservations are over.
        Raises LeadershipLost as soon as the guard does not hold any more.
        """
        limit = asyncio.Semaphore(IN_FLIGHT)
        results: list[asyncio.Task[tuple[int, int]]] = []
        async with asyncio.TaskGroup() as tasks:
            for batch in _batches(self._writes(decisions, traces, dropped)):
                results.append(tasks.create_task(self._batch(batch, guard, limit)))
                await asyncio.sleep(0)  # it is on its way while the next is made
        return max((each.result()[0] for each in results), default=0), sum(each.result()[1] for each in results)

    def _writes(
        self, decisions: Iterable[Decision], traces: Mapping[str, str], dropped: Iterable[str]
    ) -> Iterator[Write]:
        yield from (self._drop(name) for name in dropped)
        yield from (write for unit in _units(decisions) if (write := self._write(unit, traces)) is not None)

    async def _batch(self, batch: Sequence[Write], guard: Compare, limit: asyncio.Semaphore) -> tuple[int, int]:
        async with limit:
            revision = await self._txn(batch, guard)
            if revision:
                return revision, 0
            if len(batch) == 1:
                log.info("decision overtaken", workloads=[each.workload for each in batch[0].decisions])
                return 0, 1
            alone = [await self._txn([write], guard) for write in batch]
            return max(alone), alone.count(0)

    async def _txn(self, batch: Sequence[Write], guard: Compare) -> int:
        """The revision of the write; 0 when a condition did not hold."""
        compare = dict.fromkeys([guard, *(each for write in batch for each in write.compare)])
        then = [op for write in batch for op in write.then]
        try:
            result = await self._kv.txn(list(compare), then, [Get(guard.key)])
        except KVError as error:
            # Whether it was applied shows in the watch. What was not is planned again; the conditions keep it single.
            log.warning("commit failed", error=str(error), decisions=len(batch))
            return 0
        if result.succeeded:
            for write in batch:
                for decision in write.decisions:
                    _tell(decision)
            return result.revision
        holder = result.responses[0].entry
        if holder is None or holder.create_revision != guard.revision:
            raise LeadershipLost
        return 0

    def _write(self, unit: Sequence[Decision], traces: Mapping[str, str]) -> Write | None:
        compare: list[Compare] = []
        then: list[Op] = []
        now = timestamp(self._clock.now())
        for decision in unit:
            if not self._add(decision, traces.get(decision.workload, ""), now, compare, then):
                return None
        return Write(decisions=tuple(unit), compare=tuple(compare), then=tuple(then))

    def _add(
        self, decision: Decision, trace_context: str, now: Timestamp, compare: list[Compare], then: list[Op]
    ) -> bool:
        """What one decision adds to a transaction; False when it is about something that is not there any more."""
        name = WorkloadName.parse(decision.workload)
        record = self._ledger.workloads.get(decision.workload)
        if record is None or not is_current(self._ledger, decision):
            return False
        document = _document(record, decision, now)
        key = keys.workload(name)
        compare += [mod(key, record.mod_revision), *(absent(_node_key(node)) for node in decision.missing)]
        then.append(Put(key, stored(document)))
        if decision.placement is not None:
            assignment = _assignment(document, decision.placement, trace_context, now)
            if decision.tasks is not None:
                add_array(assignment, document, decision, self._ledger)
            then.append(Put(keys.assignment(name, decision.generation), stored(assignment)))
            compare.append(absent(keys.assignment(name, decision.generation)))
        for revocation in decision.revoke:
            assigned = self._ledger.assignment(decision.workload, revocation.generation)
            if assigned is None:
                return False
            where = keys.assignment(name, revocation.generation)
            revoked = _revoked(assigned.proto, revocation, now)
            if decision.tasks is not None and assigned.tasks is not None:
                add_array(revoked, document, decision, self._ledger)
            then.append(Put(where, stored(revoked)))
            compare.append(mod(where, assigned.mod_revision))
        if decision.tasks is not None:
            task_writes(self._ledger, decision, name, compare, then)
        for generation in decision.retire:
            then += [Delete(keys.assignment(name, generation)), DeletePrefix(keys.statuses(name, generation))]
        if decision.reservation is not None:
            lifetime_s = decision.reservation.expires_at - self._clock.monotonic()
            reservation = reservation_to_proto(decision.reservation, document, now, lifetime_s)
            then.append(Put(keys.reservation(name), stored(reservation)))
        elif decision.drops_reservation:
            then.append(Delete(keys.reservation(name)))
        return True

    def _drop(self, workload: str) -> Write:
        """Forget what is reserved for a workload that is no more."""
        name = WorkloadName.parse(workload)
        return Write(decisions=(), compare=(absent(keys.workload(name)),), then=(Delete(keys.reservation(name)),))


def _document(record: WorkloadRecord, decision: Decision, now: Timestamp) -> workload_pb2.Workload:
    document = workload_pb2.Workload()
    document.CopyFrom(record.proto)
    document.state = workload_pb2.Workload.State.ValueType(decision.state)
    document.pending_reason = workload_pb2.Workload.PendingReason.ValueType(decision.reason)
    document.message = decision.message
    document.generation = decision.generation
    document.restarts = decision.restarts
    document.preemptions = decision.preemptions
    document.update_time.CopyFrom(now)
    if decision.tasks is not None:
        tell_array(document.array, decision)
    if decision.slices is not record.value.slices:
        del document.slices[:]
        document.slices.extend(slice_to_proto(each) for each in decision.slices)
    if (decision.granted or document.granted) and dict(decision.granted) != dict(document.granted):
        document.granted.clear()
        document.granted.update(decision.granted)
    if decision.failures is not record.value.failures:
        document.failures.CopyFrom(failures_to_proto(decision.failures))
    if not decision.has_quota:
        document.ClearField("quota_reserve_time")
    elif not document.HasField("quota_reserve_time"):
        document.quota_reserve_time.CopyFrom(now)
    if decision.resets_checks:
        for check in document.admission_checks:
            check.ClearField("state")
            check.ClearField("message")
    if decision.placement is not None:
        document.assign_time.CopyFrom(now)
        if not decision.placement.kept:
            document.ClearField("checkpoint_time")
    if decision.state is State.RUNNING and not document.HasField("start_time"):
        document.start_time.CopyFrom(now)
    if decision.state in ENDED:
        document.end_time.CopyFrom(now)
    return document


def _assignment(
    document: workload_pb2.Workload, placement: Placement, trace_context: str, now: Timestamp
) -> ledger_pb2.Assignment:
    return ledger_pb2.Assignment(
        workload=document.name,
        workload_uid=document.uid,
        generation=document.generation,
        pool=placement.pool,
        slices=document.slices,
        sessions=dict(placement.sessions),
        create_time=now,
        programs={group.name: group.program for group in document.groups},
        resources={group.name: group.resources for group in document.groups},
        kept=sorted(placement.kept),
        owner=document.owner,
        trace_context=trace_context or document.trace_context,
    )


def _revoked(assignment: ledger_pb2.Assignment, revocation: Revocation, now: Timestamp) -> ledger_pb2.Assignment:
    revoked = ledger_pb2.Assignment()
    revoked.CopyFrom(assignment)
    revoked.revoke_time.CopyFrom(now)
    revoked.grace_s = revocation.grace_s
    revoked.revoke_reason = revocation.reason
    return revoked


def _units(decisions: Iterable[Decision]) -> Iterator[list[Decision]]:
    """The decisions one by one, but for those that name each other: they come at the place of the first of them."""
    together: dict[str, list[Decision]] = {}
    for each in decisions:
        together.setdefault(each.together or each.workload, []).append(each)
    yield from together.values()


def _batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    """Groups that stay within the limits of a transaction."""
    batch: list[Write] = []
    ops = size = 0
    for write in writes:
        ops, size = ops + write.ops, size + write.size
        if batch and (ops > MAX_OPS or size > MAX_BYTES):
            yield batch
            batch, ops, size = [], write.ops, write.size
        batch.append(write)
    if batch:
        yield batch


def _node_key(node: str) -> str:
    return keys.node(NodeName.parse(node))


def _tell(decision: Decision) -> None:
    """What changes the course of a workload is told; that many still wait, or are placed as they should be, is not."""
    tell = log.info if decision.revoke or decision.reservation or decision.state in ENDED else log.debug
    tell(
        "workload decided",
        workload=decision.workload,
        state=decision.state.name,
        generation=decision.generation,
        reason=decision.reason.name if decision.reason else "",
        detail=decision.message,
        placed=len(decision.placement.slices) if decision.placement else 0,
        revoked=[f"{each.generation}:{each.reason}" for each in decision.revoke],
        trace=telemetry.traceparent(),
    )
