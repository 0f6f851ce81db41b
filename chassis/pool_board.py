"""The pools as the scheduler streams them: their names and labels, held locally."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from chassis.clock import Clock
from chassis.logs import logger
from lepton.errors import LeptonError, OutOfRange
from lepton.scheduler.v1.scheduler_service_pb2 import WatchPoolsRequest, WatchPoolsResponse
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

log = logger(__name__)
_PAUSE_S: Final = 0.5


class PoolBoard:
    """Follows the pools; `labels` is None until all of them were seen once."""

    def __init__(self, channel: Any, clock: Clock) -> None:
        self._stub = SchedulerServiceStub(channel)
        self._clock = clock
        self._pools: dict[str, Mapping[str, str]] = {}
        self._listeners: list[Callable[[], None]] = []
        self.known = asyncio.Event()

    @property
    def labels(self) -> Mapping[str, Mapping[str, str]] | None:
        """The labels of every pool, by its name."""
        return self._pools if self.known.is_set() else None

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call this when a pool has come, gone, or got other labels."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow them for ever. While the scheduler is away, what was last heard stands."""
        while True:
            try:
                await self._follow()
            except (LeptonError, OutOfRange) as error:
                log.info("pool watch broke, beginning anew", reason=error.reason)
            await self._clock.sleep(_PAUSE_S)

    async def _follow(self) -> None:
        fresh: dict[str, Mapping[str, str]] | None = {}  # until the first bookmark
        async for change in self._stub.WatchPools(WatchPoolsRequest(), wait_for_ready=True):
            into = self._pools if fresh is None else fresh
            if change.event == WatchPoolsResponse.CHANGED:
                into[change.pool.name] = dict(change.pool.labels)
            elif change.event == WatchPoolsResponse.DELETED:
                into.pop(change.pool.name, None)
            elif change.event == WatchPoolsResponse.BOOKMARK and fresh is not None:
                self._pools, fresh = fresh, None
                self.known.set()
            else:
                continue
            if fresh is None:
                for listener in self._listeners:
                    listener()
