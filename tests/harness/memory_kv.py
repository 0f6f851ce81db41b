"""A KV store in memory that behaves as etcd does: revisions, history, compaction, leases on an injected clock."""

import asyncio
import bisect
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from chassis.clock import Clock, SystemClock, wait_for_event
from chassis.kv import (
    Compacted,
    Compare,
    Delete,
    DeletePrefix,
    Entry,
    Event,
    Get,
    LeaseNotFound,
    Op,
    OpResult,
    Page,
    Put,
    TxnResult,
    WatchBatch,
)
from chassis.kv_limits import check_txn

_IDLE_S = 3600.0


class MemoryLease:
    """A lease of a MemoryKV; renewed continuously while `is_renewed`."""

    def __init__(self, kv: "MemoryKV", lease_id: int, ttl_s: int, clock: Clock, is_renewed: bool) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self.lost = asyncio.Event()
        self.is_renewed = is_renewed
        self._kv = kv
        self._clock = clock
        self._renewed_at = clock.monotonic()

    @property
    def renewed_at(self) -> float:
        """Now, while renewed; else the time of the last renewal."""
        return self._clock.monotonic() if self.is_renewed else self._renewed_at

    @property
    def expires_at(self) -> float:
        """When the store will delete it, if no renewal comes."""
        return self.renewed_at + self.ttl_s

    def stop_renewing(self) -> None:
        """From now on no renewal arrives."""
        self._renewed_at = self._clock.monotonic()
        self.is_renewed = False

    async def revoke(self) -> None:
        """End the lease and delete its keys."""
        self._kv.end_lease(self.id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.revoke()


@dataclass(slots=True)
class _Change:
    """The writes of one transaction while it is carried out."""

    revision: int
    events: dict[str, Event] = field(default_factory=dict)


class MemoryKV:
    """One store, shared by everyone who holds the object; enter it so that leases expire by themselves."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._revision = 1
        self._compacted = 0
        self._versions: dict[str, list[Event]] = {}
        self._log: list[Event] = []
        self._leases: dict[int, MemoryLease] = {}
        self._next_lease_id = 1
        self._changed = asyncio.Event()
        self._leases_changed = asyncio.Event()
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        tasks = await self._closing.enter_async_context(asyncio.TaskGroup())
        self._closing.callback(tasks.create_task(self._expire_leases(), name="memory_kv leases").cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    async def get(self, key: str) -> Entry | None:
        """Read one key."""
        await self._arrive()
        return self._current(key)

    async def list(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> Page:
        """Read the keys under a prefix as they stood at one revision."""
        await self._arrive()
        if revision > self._revision:
            raise ValueError(f"revision {revision} is in the future; the store is at {self._revision}")
        if 0 < revision < self._compacted:
            raise Compacted(self._compacted)
        at = revision or self._revision
        entries = [entry for entry in self._entries(prefix, at) if entry.key > start_after]
        end = limit or len(entries)
        return Page(entries=tuple(entries[:end]), revision=at, more=end < len(entries))

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        """Carry out one branch, atomically."""
        check_txn(compare, then, otherwise)
        await self._arrive()
        succeeded = all(self._holds(condition) for condition in compare)
        ops = then if succeeded else otherwise
        for op in ops:
            if isinstance(op, Put) and op.lease and op.lease not in self._leases:
                raise LeaseNotFound(f"no lease {op.lease:x}")
        change = _Change(revision=self._revision + 1)
        responses = tuple(self._apply(op, change) for op in ops)
        self._commit(change)
        return TxnResult(succeeded=succeeded, revision=self._revision, responses=responses)

    async def put(self, key: str, value: bytes, *, lease: int | None = None) -> int:
        """Set a key whatever its state."""
        return (await self.txn([], [Put(key, value, lease)])).revision

    async def grant(self, ttl_s: int, *, keep_alive: bool = True) -> MemoryLease:
        """Obtain a lease, renewed until revoked or `stall`ed."""
        await self._arrive()
        lease = MemoryLease(self, self._next_lease_id, ttl_s, self._clock, keep_alive)
        self._next_lease_id += 1
        self._leases[lease.id] = lease
        self._leases_changed.set()
        return lease

    async def watch(self, prefix: str, *, start_revision: int = 0) -> AsyncGenerator[WatchBatch, None]:
        """Yield every change under a prefix from `start_revision` on."""
        next_revision = start_revision or self._revision + 1
        while True:
            changed = self._changed
            if next_revision <= self._compacted:
                raise Compacted(self._compacted)
            first = bisect.bisect_left(self._log, next_revision, key=lambda event: event.revision)
            events = tuple(event for event in self._log[first:] if event.key.startswith(prefix))
            next_revision = max(next_revision, self._revision + 1)
            if events:
                yield WatchBatch(events=events, revision=events[-1].revision)
            else:
                await changed.wait()

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`, as etcd's operator or auto-compaction does."""
        if revision <= self._compacted:
            raise Compacted(self._compacted)
        if revision > self._revision:
            raise ValueError(f"revision {revision} is in the future; the store is at {self._revision}")
        self._compacted = revision
        self._log = [event for event in self._log if event.revision > revision]
        for key, versions in list(self._versions.items()):
            kept = bisect.bisect_right(versions, revision, key=lambda event: event.revision)
            if kept and versions[kept - 1].entry is not None:
                kept -= 1
            del versions[:kept]
            if not versions:
                del self._versions[key]
        self._notify()

    def stall(self, lease: int) -> None:
        """A fault for tests: from now on this lease's renewals no longer reach the store."""
        self._leases[lease].stop_renewing()
        self._leases_changed.set()

    def end_lease(self, lease_id: int) -> None:
        """Delete a lease and, at one revision, its keys."""
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return
        change = _Change(revision=self._revision + 1)
        for entry in [entry for entry in self._entries("", self._revision) if entry.lease == lease_id]:
            change.events[entry.key] = Event(key=entry.key, entry=None, revision=change.revision)
        self._commit(change)
        lease.lost.set()

    async def _arrive(self) -> None:
        await asyncio.sleep(0)  # a real store is never reached without giving up the loop
        self._end_due_leases()

    def _current(self, key: str) -> Entry | None:
        versions = self._versions.get(key)
        return versions[-1].entry if versions else None

    def _entries(self, prefix: str, at: int) -> Iterator[Entry]:
        for key in sorted(key for key in self._versions if key.startswith(prefix)):
            versions = self._versions[key]
            seen = bisect.bisect_right(versions, at, key=lambda event: event.revision)
            entry = versions[seen - 1].entry if seen else None
            if entry is not None:
                yield entry

    def _holds(self, compare: Compare) -> bool:
        entry = self._current(compare.key)
        actual: int = getattr(entry, compare.field) if entry else 0
        return actual > compare.revision if compare.relation == "greater" else actual == compare.revision

    def _apply(self, op: Op, change: _Change) -> OpResult:
        match op:
            case Put():
                change.events[op.key] = self._put_event(op, change.revision)
                return OpResult()
            case Get():
                changed = change.events.get(op.key)
                return OpResult(entry=changed.entry if changed else self._current(op.key))
            case Delete():
                doomed = [op.key] if self._current(op.key) else []
            case DeletePrefix():
                doomed = [entry.key for entry in self._entries(op.prefix, self._revision)]
        doomed = [key for key in doomed if key not in change.events]
        for key in doomed:
            change.events[key] = Event(key=key, entry=None, revision=change.revision)
        return OpResult(deleted=len(doomed))

    def _put_event(self, put: Put, revision: int) -> Event:
        before = self._current(put.key)
        entry = Entry(
            key=put.key,
            value=put.value,
            create_revision=before.create_revision if before else revision,
            mod_revision=revision,
            version=before.version + 1 if before else 1,
            lease=put.lease or 0,
        )
        return Event(key=put.key, entry=entry, revision=revision)

    def _commit(self, change: _Change) -> None:
        if not change.events:
            return
        self._revision = change.revision
        for event in change.events.values():
            self._versions.setdefault(event.key, []).append(event)
            self._log.append(event)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _end_due_leases(self) -> None:
        now = self._clock.monotonic()
        for lease in [lease for lease in self._leases.values() if not lease.is_renewed and lease.expires_at <= now]:
            self.end_lease(lease.id)

    async def _expire_leases(self) -> None:
        while True:
            self._end_due_leases()
            self._leases_changed.clear()
            due = [lease.expires_at for lease in self._leases.values() if not lease.is_renewed]
            delay_s = min(due) - self._clock.monotonic() if due else _IDLE_S
            await wait_for_event(self._leases_changed, delay_s, self._clock)
