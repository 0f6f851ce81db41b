"""The few leases under which a replica keeps the keys of all its nodes, replaced when they are lost."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Final

from chassis.clock import Clock
from chassis.kv import KV, KVError, Lease
from chassis.logs import logger

log = logger(__name__)

_RETRY_S: Final = 0.5


class Leases:
    """Which lease a node is under. They are never revoked: a replica that restarts must not drop its nodes."""

    def __init__(self, kv: KV, clock: Clock, *, count: int, ttl_s: int) -> None:
        self._kv = kv
        self._clock = clock
        self._ttl_s = ttl_s
        self._leases: list[Lease | None] = [None] * count
        self._granted = [asyncio.Event() for _ in range(count)]
        self._ids: set[int] = set()

    async def run(self, restore: Callable[[Lease], Awaitable[None]]) -> None:
        """Hold the leases, for ever; `restore` is told of each that replaces a lost one."""
        async with asyncio.TaskGroup() as tasks:
            for slot in range(len(self._leases)):
                tasks.create_task(self._hold(slot, restore))

    async def lease_of(self, node: str) -> Lease:
        """The lease for a node; waits while there is none."""
        slot = self._slot(node)
        while True:
            await self._granted[slot].wait()
            lease = self._leases[slot]
            if lease is not None:
                return lease

    def is_under(self, node: str, lease: Lease) -> bool:
        """Whether this is the lease for a node."""
        return self._leases[self._slot(node)] is lease

    def is_ours(self, lease_id: int) -> bool:
        """Whether this replica has ever held the lease."""
        return lease_id in self._ids

    async def _hold(self, slot: int, restore: Callable[[Lease], Awaitable[None]]) -> None:
        is_first = True
        while True:
            try:
                lease = await self._kv.grant(self._ttl_s)
            except KVError as error:
                log.warning("no lease for nodes yet", error=str(error))
                await self._clock.sleep(_RETRY_S)
                continue
            self._ids.add(lease.id)
            self._leases[slot] = lease
            self._granted[slot].set()
            if not is_first:
                await restore(lease)
            await lease.lost.wait()
            log.warning("lease of nodes lost", lease=f"{lease.id:x}")
            is_first = False
            self._granted[slot].clear()
            self._leases[slot] = None

    def _slot(self, node: str) -> int:
        return zlib.crc32(node.encode()) % len(self._leases)


def is_held(lease: Lease, now: float) -> bool:
    """Whether the store is bound to keep the lease still, by the monotonic clock."""
    return not lease.lost.is_set() and now < lease.renewed_at + lease.ttl_s
