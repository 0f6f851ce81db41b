"""MemoryKV keeps the contract."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.contracts.kv import KVContract
from tests.harness.memory_kv import MemoryKV


class TestMemoryKV(KVContract):
    """In memory."""

    @pytest_asyncio.fixture
    async def kv(self) -> AsyncIterator[MemoryKV]:
        """A store of the test's own."""
        async with MemoryKV() as kv:
            yield kv
