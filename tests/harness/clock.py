"""A clock that stands still until the test moves it."""

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

_SETTLE_TURNS = 50


class ManualClock:
    """Sleepers wake, in order, only when `advance` reaches their time."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = now
        self._elapsed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def monotonic(self) -> float:
        """Seconds the clock was advanced by."""
        return self._elapsed_s

    def now(self) -> datetime:
        """The start plus what the clock was advanced by."""
        return self._start + timedelta(seconds=self._elapsed_s)

    async def sleep(self, delay_s: float) -> None:
        """Wait until the test has advanced that far."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._elapsed_s + delay_s, next(self._order), woken))
        await woken.wait()

    async def advance(self, by_s: float) -> None:
        """Move time on, waking each sleeper at its own moment and letting it act before the next one."""
        await self.settle()
        end_s = self._elapsed_s + by_s
        while self._sleepers and self._sleepers[0][0] <= end_s:
            self._elapsed_s, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await self.settle()
        self._elapsed_s = end_s
        await self.settle()

    async def settle(self) -> None:
        """Let every task run until it waits again."""
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)
