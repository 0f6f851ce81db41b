"""Hands the spool over to auth, in order, until everything is acknowledged."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol

import grpc

from chassis.audit.spool import Spool
from chassis.clock import Clock
from chassis.kv import KVError
from chassis.logs import logger
from lepton.errors import LeptonError
from lepton.internal.v1.audit_feed_pb2 import AppendAuditRequest, AuditEntry
from lepton.internal.v1.audit_feed_pb2_grpc import AuditFeedServiceStub

log = logger(__name__)

BATCH: Final = 500
_TIMEOUT_S: Final = 30.0
_MESSAGE: Final = 250


class Sink(Protocol):
    """Where entries go: auth's feed, or in auth itself its log."""

    async def append(self, spool: str, entries: Sequence[AuditEntry]) -> int:
        """Return the number of the newest entry of the spool once it is durable."""
        ...


class FeedSink:
    """Auth, over the mesh: a stream of requests for each batch, answered when all of it is in the log."""

    def __init__(self, channel: Any) -> None:
        self._stub = AuditFeedServiceStub(channel)

    async def append(self, spool: str, entries: Sequence[AuditEntry]) -> int:
        """Send a batch."""

        async def requests() -> AsyncIterator[AppendAuditRequest]:
            for at in range(0, len(entries), _MESSAGE):
                yield AppendAuditRequest(spool=spool, entries=entries[at : at + _MESSAGE])

        answer = await self._stub.AppendAudit(requests(), timeout=_TIMEOUT_S)
        return int(answer.number)


class Shipper:
    """One batch at a time. What only memory holds goes when all that the disk holds is through."""

    def __init__(self, spool: Spool, sink: Sink, clock: Clock, buffer: deque[AuditEntry]) -> None:
        self._spool = spool
        self._sink = sink
        self._clock = clock
        self._buffer = buffer
        self._direct: list[AuditEntry] = []  # numbered, and on their way from memory

    async def ship(self) -> bool:
        """Hand over a batch; False when there was nothing. Raises what kept it from arriving."""
        if not self._direct:
            spool, entries = self._spool.unsent(BATCH)
            if entries:
                try:
                    self._spool.acknowledge(spool, await self._sink.append(spool, entries))
                except BaseException:
                    self._spool.rewind()
                    raise
                return True
            while self._buffer and len(self._direct) < BATCH:
                entry = self._buffer.popleft()
                entry.number = self._spool.next_number()
                self._direct.append(entry)
        if not self._direct:
            return False
        await self._sink.append(self._spool.id, self._direct)
        self._direct = []
        return True

    async def ship_all(self) -> None:
        """Hand over everything there is, trying again for as long as auth cannot take it."""
        pause_s = 0.2
        while True:
            try:
                while await self.ship():
                    pause_s = 0.2
                return
            except (LeptonError, grpc.RpcError, KVError, OSError, TimeoutError) as error:
                log.warning(
                    "audit records wait for auth",
                    error_class=type(error).__name__,
                    reason=getattr(error, "reason", ""),
                    retry_s=pause_s,
                )
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)

    @property
    def waiting(self) -> int:
        """How many entries only memory holds."""
        return len(self._buffer) + len(self._direct)


async def ship_now(shipper: Shipper, patience_s: float) -> None:
    """As much as goes within a short time; the rest stays in the spool for the next process."""
    try:
        async with asyncio.timeout(patience_s):
            while await shipper.ship():
                pass
    except (LeptonError, grpc.RpcError, KVError, OSError, TimeoutError):
        return
