"""Time as a dependency: what a component may ask of a clock, and the system's own."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Monotonic time for intervals, wall-clock time for records, and sleep."""

    def monotonic(self) -> float:
        """Seconds that never jump; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return once `delay_s` seconds have passed on this clock."""
        ...


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)  # no method around it: every call of every service asks

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, delay_s: float) -> None:
        """Sleep without blocking the loop."""
        await asyncio.sleep(max(0.0, delay_s))


async def wait_for_event(event: asyncio.Event, timeout_s: float, clock: Clock) -> bool:
    """Wait until the event is set, but at most `timeout_s` on the clock; say whether it was set."""
    if event.is_set() or timeout_s <= 0:
        return event.is_set()
    async with asyncio.TaskGroup() as tasks:
        waiter = tasks.create_task(event.wait())
        timer = tasks.create_task(clock.sleep(timeout_s))
        await asyncio.wait({waiter, timer}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        timer.cancel()
    return event.is_set()
