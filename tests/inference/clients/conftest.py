"""One gateway for all clients of a module."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.inference.clients.example_models import example_models
from tests.inference.clients.stack import Stack, serving


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with serving(tmp_path_factory.mktemp("clients"), example_models()) as running:
        yield running
