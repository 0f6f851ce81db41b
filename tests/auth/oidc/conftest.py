"""Auth beside providers: a real one in its own process, and one that signs anything."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.harness.etcd import EtcdCluster
from tests.harness.oidc import Minter, RunningProvider, running_provider


@pytest_asyncio.fixture
async def provider(tmp_path: Path) -> AsyncIterator[RunningProvider]:
    """A real provider."""
    async with running_provider(tmp_path / "provider") as running:
        yield running


@pytest.fixture
def minter(tmp_path: Path) -> Minter:
    """A provider whose tokens are what the test says."""
    return Minter(tmp_path)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> EtcdCluster | None:
    """The store in memory; a real etcd for tests with parameter `etcd`."""
    return request.getfixturevalue("etcd") if getattr(request, "param", "memory") == "etcd" else None
