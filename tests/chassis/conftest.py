"""The echo service on a chassis server."""

from collections.abc import AsyncIterator

import pytest

from bench.echo import Echo, EchoStub, add_echo_to_server
from tests.harness.mesh import Mesh, serving


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with serving((add_echo_to_server, Echo())) as running:
        yield running


@pytest.fixture
async def alice(mesh: Mesh) -> AsyncIterator[EchoStub]:
    """A stub of users/alice, who develops in projects/acme."""
    async with mesh.client("users/alice") as channel:
        yield EchoStub(channel)
