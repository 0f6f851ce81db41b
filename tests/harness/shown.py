"""Waiting for a resource in the key-value state to be as it should be; told by its changes, never by looking often."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from chassis.kv import KV, follow


async def shown(
    kv: KV, key: str, message: type[Any], condition: Callable[[Any], object], deadline_s: float = 30.0
) -> Any:
    """The resource at a key as soon as it is as wished; with None for a condition's argument when it is gone."""
    current: Any = None
    try:
        async with asyncio.timeout(deadline_s), aclosing(follow(kv, key)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.key == key:
                        current = None if event.entry is None else message.FromString(event.entry.value)
                if condition(current):
                    return current
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s} s: {key} is {current}") from None
    raise AssertionError("a follow has no end")
