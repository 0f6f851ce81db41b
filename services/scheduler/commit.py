"""Carries a plan out: each decision as guarded writes, many decisions in one transaction."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chassis import telemetry
from chassis.clock import Clock
from chassis.kv import KV, Compare, Delete, DeletePrefix, Get, KVError, Op, Put, absent, mod
from chassis.logs import logger
from lepton.internal.v1 import ledger_pb2
from lepton.names import NodeName, WorkloadName
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import convert, keys
from services.scheduler.ledger import Ledger, WorkloadRecord
from services.scheduler.lifecycle import ENDED
from services.scheduler.planner import Decision, Placement, Revocation
from services.scheduler.snapshot import State

log = logger(__name__)

MAX_OPS: Final = 50  # measured: 15 times the rate of one transaction per change, well within etcd's 128
MAX_BYTES: Final = 1 << 20
IN_FLIGHT: Final = 8


class LeadershipLost(Exception):
    """Another replica leads: nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One decision as the conditions and operations of a transaction."""

    decision: Decision
    compare: tuple[Compare, ...]
    then: tuple[Op, ...]

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

    async def commit(self, decisions: Iterable[Decision], guard: Compare, traces: Mapping[str, str]) -> tuple[int, int]:
        """Write what still holds; the revision of the last write, and how many decisions were overtaken by events.

        `traces` holds the trace context under which each placed workload goes on.
        Raises LeadershipLost as soon as the guard does not hold any more.
        """
        writes = [write for each in decisions if (write := self._write(each, traces)) is not None]
        limit = asyncio.Semaphore(IN_FLIGHT)
        async with asyncio.TaskGroup() as tasks:
            results = [tasks.create_task(self._batch(batch, guard, limit)) for batch in _batches(writes)]
        return max((each.result()[0] for each in results), default=0), sum(each.result()[1] for each in results)

    async def _batch(self, batch: Sequence[Write], guard: Compare, limit: asyncio.Semaphore) -> tuple[int, int]:
        async with limit:
            revision = await self._txn(batch, guard)
            if revision:
                return revision, 0
            if len(batch) == 1:
                log.info("decision overtaken", workload=batch[0].decision.workload)
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
                _tell(write.decision)
            return result.revision
        holder = result.responses[0].entry
        if holder is None or holder.create_revision != guard.revision:
            raise LeadershipLost
        return 0

    def _write(self, decision: Decision, traces: Mapping[str, str]) -> Write | None:
        name = WorkloadName.parse(decision.workload)
        record = self._ledger.workloads.get(decision.workload)
        if record is None:
            return None
        document = self._document(record, decision)
        key = keys.workload(name)
        compare = [mod(key, record.mod_revision), *(absent(_node_key(node)) for node in decision.missing)]
        then: list[Op] = [Put(key, convert.stored(document))]
        if decision.placement is not None:
            assignment = self._assignment(document, decision.placement, traces.get(decision.workload, ""))
            then.append(Put(keys.assignment(name, decision.generation), convert.stored(assignment)))
            compare.append(absent(keys.assignment(name, decision.generation)))
        for revocation in decision.revoke:
            assigned = self._ledger.assignment(decision.workload, revocation.generation)
            if assigned is None:
                return None
            where = keys.assignment(name, revocation.generation)
            then.append(Put(where, convert.stored(self._revoked(assigned.proto, revocation))))
            compare.append(mod(where, assigned.mod_revision))
        for generation in decision.retire:
            then += [Delete(keys.assignment(name, generation)), DeletePrefix(keys.statuses(name, generation))]
        return Write(decision=decision, compare=tuple(compare), then=tuple(then))

    def _document(self, record: WorkloadRecord, decision: Decision) -> workload_pb2.Workload:
        document = workload_pb2.Workload()
        document.CopyFrom(record.proto)
        now = convert.timestamp(self._clock.now())
        document.state = workload_pb2.Workload.State.ValueType(decision.state)
        document.pending_reason = workload_pb2.Workload.PendingReason.ValueType(decision.reason)
        document.message = decision.message
        document.generation = decision.generation
        document.restarts = decision.restarts
        document.update_time.CopyFrom(now)
        del document.slices[:]
        document.slices.extend(convert.slice_to_proto(each) for each in decision.slices)
        if decision.state is State.RUNNING and not document.HasField("start_time"):
            document.start_time.CopyFrom(now)
        if decision.state in ENDED:
            document.end_time.CopyFrom(now)
        return document

    def _assignment(
        self, document: workload_pb2.Workload, placement: Placement, trace_context: str
    ) -> ledger_pb2.Assignment:
        return ledger_pb2.Assignment(
            workload=document.name,
            workload_uid=document.uid,
            generation=document.generation,
            pool=placement.pool,
            slices=document.slices,
            sessions=dict(placement.sessions),
            create_time=convert.timestamp(self._clock.now()),
            programs={group.name: group.program for group in document.groups},
            resources={group.name: group.resources for group in document.groups},
            kept=sorted(placement.kept),
            owner=document.owner,
            trace_context=trace_context or document.trace_context,
        )

    def _revoked(self, assignment: ledger_pb2.Assignment, revocation: Revocation) -> ledger_pb2.Assignment:
        revoked = ledger_pb2.Assignment()
        revoked.CopyFrom(assignment)
        revoked.revoke_time.CopyFrom(convert.timestamp(self._clock.now()))
        revoked.grace_s = revocation.grace_s
        revoked.revoke_reason = revocation.reason
        return revoked


def _batches(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Groups that stay within the limits of a transaction."""
    batch: list[Write] = []
    for write in writes:
        ops = sum(max(len(each.then), len(each.compare)) for each in (*batch, write))
        if batch and (ops > MAX_OPS or sum(each.size for each in (*batch, write)) > MAX_BYTES):
            yield batch
            batch = []
        batch.append(write)
    if batch:
        yield batch


def _node_key(node: str) -> str:
    return keys.node(NodeName.parse(node))


def _tell(decision: Decision) -> None:
    log.info(
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
