"""Waiting for what happens in another process: the one place where tests poll."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

_INTERVAL_S = 0.02


async def until(condition: Callable[[], object | Awaitable[object]], deadline_s: float = 30.0) -> None:
    """Return once the condition is truthy; fail when it still is not after `deadline_s`."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        outcome = condition()
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if outcome:
            return
        if time.monotonic() >= give_up_at:
            raise AssertionError(f"not true within {deadline_s} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(_INTERVAL_S)
