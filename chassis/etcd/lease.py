"""Leases: one stream renews all of a client's leases, and a lease that was not renewed in time is known to be lost."""

import asyncio
import math
from types import TracebackType
from typing import Final, Self

from grpc import aio

from chassis.clock import Clock, wait_for_event
from chassis.etcd.members import REQUIRE_LEADER, Member, Members
from chassis.etcdpb import rpc_pb2
from chassis.kv import KVError, LeaseNotFound
from chassis.logs import logger

_RETRY_S: Final = 0.1
_IDLE_S: Final = 3600.0

log = logger(__name__)

Stream = aio.StreamStreamCall[rpc_pb2.LeaseKeepAliveRequest, rpc_pb2.LeaseKeepAliveResponse]


class EtcdLease:
    """A lease that etcd granted; the keeper renews it every third of its TTL, if it is to be kept."""

    def __init__(self, keeper: "LeaseKeeper", lease_id: int, ttl_s: int, renewed_at: float) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self.renewed_at = renewed_at
        self.lost = asyncio.Event()
        self.sent_at: float | None = None  # when the renewal now under way was sent
        self._keeper = keeper

    @property
    def expires_at(self) -> float:
        """When etcd may delete it, if no renewal comes: counted from the sending, so never too late."""
        return self.renewed_at + self.ttl_s

    @property
    def act_at(self) -> float:
        """When the next renewal is due, or the one under way has taken too long."""
        return (self.renewed_at if self.sent_at is None else self.sent_at) + self.ttl_s / 3

    async def revoke(self) -> None:
        """End the lease now and delete its keys; if etcd cannot be reached it runs out by itself."""
        if not self.lost.is_set():
            await self._keeper.revoke(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.revoke()
        except KVError as failure:
            log.warning("lease not revoked; it runs out by itself", lease=self.id, reason=str(failure))


class LeaseKeeper:
    """All leases of one client."""

    def __init__(self, members: Members, clock: Clock, timeout_s: float) -> None:
        self._members = members
        self._clock = clock
        self._timeout_s = timeout_s
        self._leases: dict[int, EtcdLease] = {}
        self._kept: dict[int, EtcdLease] = {}  # those among them that are renewed; the others may be many
        self._renew_now = asyncio.Event()
        self._recount = asyncio.Event()

    async def grant(self, ttl_s: int, is_kept: bool) -> EtcdLease:
        """Obtain a lease. It may be asked for twice when an answer is lost: the first one then runs out unused."""
        sent_at = self._clock.monotonic()
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        response = await self._members.read(lambda member: member.lease.LeaseGrant, request, self._timeout_s)
        lease = EtcdLease(self, response.ID, response.TTL, sent_at)
        self._leases[lease.id] = lease
        if is_kept:
            self._kept[lease.id] = lease
        self._wake()
        return lease

    async def revoke(self, lease: EtcdLease) -> None:
        """Stop renewing and tell etcd; repeating that is harmless."""
        self._end(lease)
        request = rpc_pb2.LeaseRevokeRequest(ID=lease.id)
        try:
            await self._members.read(lambda member: member.lease.LeaseRevoke, request, self._timeout_s)
        except LeaseNotFound:
            return

    async def run(self) -> None:
        """Renew and expire leases until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew())
            tasks.create_task(self._expire())

    def _end(self, lease: EtcdLease) -> None:
        self._leases.pop(lease.id, None)
        self._kept.pop(lease.id, None)
        lease.lost.set()
        self._wake()

    def _wake(self) -> None:
        self._renew_now.set()
        self._recount.set()

    async def _expire(self) -> None:
        while True:
            self._recount.clear()
            now = self._clock.monotonic()
            for lease in [lease for lease in self._leases.values() if lease.expires_at <= now]:
                if lease.id in self._kept:
                    log.warning("lease lost: not renewed within its TTL", lease=lease.id)
                self._end(lease)
            next_at = min((lease.expires_at for lease in self._leases.values()), default=now + _IDLE_S)
            await wait_for_event(self._recount, next_at - now, self._clock)

    async def _renew(self) -> None:
        while True:
            if not self._kept:
                self._renew_now.clear()
                await self._renew_now.wait()
                continue
            member = await self._members.connected(math.inf)
            await self._renew_through(member)
            self._members.avoid(member)
            await self._clock.sleep(_RETRY_S)

    async def _renew_through(self, member: Member) -> None:
        for lease in self._kept.values():
            lease.sent_at = None
        stream = member.lease.LeaseKeepAlive(metadata=REQUIRE_LEADER)
        try:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(stream))
                await self._send(stream, reader)
                reader.cancel()
        finally:
            stream.cancel()

    async def _send(self, stream: Stream, reader: asyncio.Task[None]) -> None:
        """Send what is due until the stream breaks, or a renewal has been under way for too long."""
        while not reader.done():
            self._renew_now.clear()
            now = self._clock.monotonic()
            for lease in [lease for lease in self._kept.values() if lease.act_at <= now]:
                if lease.sent_at is not None:
                    return
                lease.sent_at = now
                try:
                    await stream.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease.id))
                except (aio.AioRpcError, asyncio.InvalidStateError):  # the latter: the stream had ended before
                    return
            next_at = min((lease.act_at for lease in self._kept.values()), default=now + _IDLE_S)
            await wait_for_event(self._renew_now, next_at - now, self._clock)

    async def _read(self, stream: Stream) -> None:
        try:
            async for response in stream:
                self._renewed(response)
        except aio.AioRpcError as error:
            log.info("lease stream broke, reopening", reason=error.details())
        finally:
            self._renew_now.set()

    def _renewed(self, response: rpc_pb2.LeaseKeepAliveResponse) -> None:
        lease = self._kept.get(response.ID)
        if lease is None:
            return
        if response.TTL <= 0:
            log.warning("lease lost: etcd does not know it any more", lease=lease.id)
            self._end(lease)
        elif lease.sent_at is not None:
            lease.renewed_at, lease.sent_at = lease.sent_at, None
            self._renew_now.set()  # to count anew when the next one is due; its end only moved further away
