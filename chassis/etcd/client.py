"""EtcdKV: the key-value store of chassis.kv, kept by an etcd cluster."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from chassis.clock import Clock, SystemClock
from chassis.etcd.lease import EtcdLease, LeaseKeeper
from chassis.etcd.members import Members
from chassis.etcd.tls import TLS
from chassis.etcd.watch import watch
from chassis.etcd.wire import compare_to_wire, entry_from_wire, op_to_wire, prefix_end, result_from_wire
from chassis.etcdpb import rpc_pb2
from chassis.kv import Compare, Entry, Op, Page, Put, TxnResult, WatchBatch
from chassis.kv_limits import check_txn


class EtcdKV:
    """A client of one etcd cluster; enter it before use.

    Reads are repeated on another member until `timeout_s` is over, then Unavailable is raised. A write is repeated only
    if it was certainly not sent; when its answer is missing OutcomeUnknown is raised.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: TLS | None = None,
        clock: Clock | None = None,
        *,
        timeout_s: float = 4.0,
    ) -> None:
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        self._endpoints = tuple(endpoints)
        self._tls = tls
        self.clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            self._members = Members(self._endpoints, self._tls, self.clock)
            opening.push_async_callback(self._members.close)
            self._leases = LeaseKeeper(self._members, self.clock, self._timeout_s)
            tasks = await opening.enter_async_context(asyncio.TaskGroup())
            opening.callback(tasks.create_task(self._leases.run(), name="etcd leases").cancel)
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def get(self, key: str) -> Entry | None:
        """Read one key, linearisably."""
        found = (await self._range(rpc_pb2.RangeRequest(key=key.encode()))).kvs
        return entry_from_wire(found[0]) if found else None

    async def list(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> Page:
        """Read the keys under a prefix in order, as they stood at `revision` (0: now)."""
        first = max(prefix.encode(), start_after.encode() + b"\0" if start_after else b"") or b"\0"
        request = rpc_pb2.RangeRequest(key=first, range_end=prefix_end(prefix), limit=limit, revision=revision)
        response = await self._range(request)
        entries = tuple(map(entry_from_wire, response.kvs))
        return Page(entries=entries, revision=revision or response.header.revision, more=response.more)

    async def count(self, prefix: str) -> int:
        """How many keys lie under a prefix."""
        request = rpc_pb2.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix), count_only=True)
        return int((await self._range(request)).count)

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        """Carry out `then` if every condition holds, else `otherwise`, atomically."""
        check_txn(compare, then, otherwise)
        request = rpc_pb2.TxnRequest(
            compare=map(compare_to_wire, compare),
            success=map(op_to_wire, then),
            failure=map(op_to_wire, otherwise),
        )
        response = await self._members.write(lambda member: member.kv.Txn, request, self._timeout_s)
        return TxnResult(
            succeeded=response.succeeded,
            revision=response.header.revision,
            responses=tuple(map(result_from_wire, response.responses)),
        )

    async def put(self, key: str, value: bytes, *, lease: int | None = None) -> int:
        """Set a key whatever its state and return the revision."""
        check_txn([], [Put(key, value, lease)], [])
        request = rpc_pb2.PutRequest(key=key.encode(), value=value, lease=lease or 0)
        response = await self._members.write(lambda member: member.kv.Put, request, self._timeout_s)
        return response.header.revision

    async def grant(self, ttl_s: int, *, keep_alive: bool = True) -> EtcdLease:
        """Obtain a lease, renewed until it is revoked or lost, or left to run out."""
        return await self._leases.grant(ttl_s, keep_alive)

    def watch(self, prefix: str, *, start_revision: int = 0) -> AsyncGenerator[WatchBatch, None]:
        """Yield every change under a prefix from `start_revision` on (0: from now), across any break."""
        return watch(self._members, self.clock, prefix, start_revision)

    async def compact(self, revision: int) -> None:
        """Make etcd forget history before `revision`; administration only, servers compact by themselves."""
        request = rpc_pb2.CompactionRequest(revision=revision)
        await self._members.write(lambda member: member.kv.Compact, request, self._timeout_s)

    async def _range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        return await self._members.read(lambda member: member.kv.Range, request, self._timeout_s)
