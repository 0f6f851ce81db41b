"""Futures that are settled by whoever comes first; who comes too late, or finds nobody who waits, changes nothing."""

import asyncio
from typing import Any


def settle(future: asyncio.Future[Any] | None, value: Any) -> None:
    """Give it its value."""
    if future is not None and not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[Any] | None, error: Exception) -> None:
    """Give it its error, which is marked as seen: not everybody who could wait for it does."""
    if future is not None and not future.done():
        future.set_exception(error)
        future.exception()
