"""What nodes really use: as the agents that are connected here say, and as the other replicas tell of theirs."""

from collections.abc import Iterable
from contextlib import aclosing
from typing import Final, Protocol

from chassis.clock import Clock
from chassis.kv import KV, KVError, Lease, LeaseNotFound, Put, follow
from chassis.logs import logger
from lepton.internal.v1 import ledger_pb2, node_session_pb2
from services.scheduler import keys
from services.scheduler.convert.documents import stored
from services.scheduler.utilization.tally import Used

log = logger(__name__)

_TTL_S: Final = 60
_FEW: Final = 1000  # nodes whose use is told at every sample; that of more at every sixth


class Beating(Protocol):
    """A session with its last heartbeat."""

    node: str
    beat: node_session_pb2.Heartbeat | None


class Measured:
    """The real use of all nodes, and this replica's part in telling it."""

    def __init__(self, kv: KV, sessions: Iterable[Beating], replica: str, clock: Clock) -> None:
        self._kv = kv
        self._sessions = sessions
        self._key = keys.REPLICA_USE + replica
        self._clock = clock
        self._others: dict[str, dict[str, Used]] = {}  # by the key of the replica that tells it
        self._lease: Lease | None = None
        self._told = 0

    def now(self) -> dict[str, Used]:
        """What every node uses that is connected somewhere."""
        used: dict[str, Used] = {}
        for key in sorted(self._others):
            used.update(self._others[key])
        used.update(self._own())
        return used

    async def follow(self) -> None:
        """Listen to the other replicas, for ever."""
        async with aclosing(follow(self._kv, keys.REPLICA_USE)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is None:
                        self._others.pop(event.key, None)
                    elif event.key != self._key:
                        self._others[event.key] = _read(event.entry.value)

    async def tell(self) -> None:
        """Let the other replicas know. What cannot be told now is told with the next sample."""
        own = self._own()
        self._told += 1
        if not own or (len(own) > _FEW and self._told % 6):
            return
        report = ledger_pb2.ReplicaUsage(
            uses=[
                ledger_pb2.ReplicaUsage.Use(node=node, cpu_milli=int(cpu), memory_bytes=int(memory))
                for node, (cpu, memory) in sorted(own.items())
            ]
        )
        try:
            if self._lease is None or self._lease.lost.is_set():
                self._lease = await self._kv.grant(_TTL_S)
            await self._kv.txn([], [Put(self._key, stored(report), self._lease.id)])
        except LeaseNotFound:
            self._lease = None
        except KVError as error:
            log.warning("use of nodes not told", error=str(error), nodes=len(own))

    def _own(self) -> dict[str, Used]:
        beats = ((each.node, each.beat) for each in self._sessions)
        return {
            node: (float(beat.cpu_used_milli), float(beat.memory_used_bytes))
            for node, beat in beats
            if beat is not None
        }


def _read(value: bytes) -> dict[str, Used]:
    uses = ledger_pb2.ReplicaUsage.FromString(value).uses
    return {each.node: (float(each.cpu_milli), float(each.memory_bytes)) for each in uses}
