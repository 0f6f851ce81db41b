"""Publishes what the gateway beside this service carries, under a lease, for whoever scales deployments."""

from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Final, Protocol

from chassis.clock import Clock
from chassis.kv import KV, KVError, Lease, Put
from chassis.logs import logger
from lepton.internal.v1.gateway_load_pb2 import GatewayLoad, ModelLoad
from services.inference.autoscaling.keys import load_key

log = logger(__name__)
_TTL_S: Final = 15
_LOOKS: Final = 4
"""Calls in flight are counted so often for each time that they are published."""
_UNREACHABLE: Final = (OSError, ValueError, LookupError, HTTPException)


class Carries(Protocol):
    """What one revision of a model has at a gateway."""

    @property
    def requests(self) -> int:
        """Answered since the gateway started."""
        ...

    @property
    def in_flight(self) -> int:
        """Not answered yet."""
        ...


class Counters(Protocol):
    """A gateway that can be asked."""

    async def load(self) -> Mapping[tuple[str, int], Carries]:
        """By model and revision."""
        ...


class LoadPublisher:
    """Asks the gateway and tells the leader, for ever. `held` says how many calls are held, by model."""

    def __init__(
        self,
        kv: KV,
        gateway: Counters,
        held: Callable[[], Mapping[str, int]],
        *,
        gateway_id: str,
        clock: Clock,
        every_s: float,
    ) -> None:
        self._kv, self._gateway, self._held = kv, gateway, held
        self._key, self._clock, self._every_s = load_key(gateway_id), clock, every_s
        self._sequence = 0
        self._last = GatewayLoad()

    async def run(self) -> None:
        """Publishes for ever; without the store, as soon as it is back."""
        while True:
            try:
                async with await self._kv.grant(_TTL_S) as lease:
                    await self._publish(lease)
            except KVError as error:
                log.info("load not published", problem=str(error))
                await self._clock.sleep(self._every_s)

    async def _publish(self, lease: Lease) -> None:
        while not lease.lost.is_set():
            told = await self.look()
            await self._kv.txn([], [Put(self._key, told.SerializeToString(), lease.id)])

    async def look(self) -> GatewayLoad:
        """What the gateway carries, averaged over the time until the next publication."""
        counts: dict[str, ModelLoad] = {}
        is_fresh = True
        for _ in range(_LOOKS):
            try:
                for (model, _), each in (await self._gateway.load()).items():
                    found = counts.setdefault(model, ModelLoad(model=model))
                    found.in_flight += each.in_flight / _LOOKS
            except _UNREACHABLE:
                is_fresh = False
            await self._clock.sleep(self._every_s / _LOOKS)
        is_fresh = is_fresh and await self._count(counts)
        if not is_fresh:
            counts = {each.model: each for each in self._last.models}
        for model, held in self._held().items():
            counts.setdefault(model, ModelLoad(model=model)).held = held
        self._sequence += 1
        self._last = GatewayLoad(sequence=self._sequence, is_fresh=is_fresh, models=counts.values())
        return self._last

    async def _count(self, counts: dict[str, ModelLoad]) -> bool:
        for each in counts.values():
            each.requests = 0
        try:
            for (model, _), now in (await self._gateway.load()).items():
                counts.setdefault(model, ModelLoad(model=model)).requests += now.requests
        except _UNREACHABLE:
            return False
        return True
