"""MemoryKV keeps the contract."""

from collections.abc import AsyncIterator

import pytest_asyncio

from chassis.memory_kv import MemoryKV
from tests.contracts.kv import KVContract


class TestMemoryKV(KVContract):
    """In memory."""

    @pytest_asyncio.fixture
    async def kv(self) -> AsyncIterator[MemoryKV]:
        """A store of the test's own."""
        async with MemoryKV() as kv:
            yield kv
