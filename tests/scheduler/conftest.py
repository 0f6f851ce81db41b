"""A scheduler over a store in memory, with a pool."""

from collections.abc import AsyncIterator

import pytest

from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, replica_of


@pytest.fixture
async def kv() -> AsyncIterator[MemoryKV]:
    async with MemoryKV() as store:
        yield store


@pytest.fixture
async def replica(kv: MemoryKV) -> AsyncIterator[Replica]:
    async with replica_of(kv) as running:
        await running.create_pool()
        yield running
