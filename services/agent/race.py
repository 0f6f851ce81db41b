"""Coroutines that run together until the first of them ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def race(*coroutines: Coroutine[Any, Any, object]) -> int:
    """Run them together; when one ends the others are cancelled, and its error, if it has one, is raised as it is.

    Returns the index of the one that ended.
    """
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [(index, task) for index, task in enumerate(tasks) if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for _, task in ended:
        task.result()
    return ended[0][0]
