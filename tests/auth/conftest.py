"""Auth over both stores: the one in memory, and a real etcd."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.etcd import EtcdKV
from chassis.kv import KV, DeletePrefix
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.etcd import EtcdCluster
from tests.harness.memory_kv import MemoryKV


@pytest_asyncio.fixture
async def memory_auth(tmp_path: Path) -> AsyncIterator[RunningAuth]:
    """Auth over a store in memory."""
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as auth:
        yield auth


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.integration)])
def cluster(request: pytest.FixtureRequest) -> EtcdCluster | None:
    """The etcd to use; None for the store in memory."""
    return request.getfixturevalue("etcd") if request.param == "etcd" else None


@pytest_asyncio.fixture
async def kv(cluster: EtcdCluster | None) -> AsyncIterator[KV]:
    """An empty store of each kind."""
    if cluster is None:
        async with MemoryKV() as memory:
            yield memory
        return
    async with EtcdKV(cluster.endpoints) as etcd:
        await etcd.txn([], [DeletePrefix("/lepton/auth/")])
        yield etcd


@pytest_asyncio.fixture
async def auth(kv: KV, tmp_path: Path) -> AsyncIterator[RunningAuth]:
    """Auth over each kind of store."""
    async with running_auth(kv, tmp_path) as running:
        yield running
