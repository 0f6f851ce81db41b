"""One world for all attacks, and the good model's witness after each of them."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.harness.wait import until
from tests.inference.hostile.world import World, world

GROWTH_BYTES = 768 << 20
"""What all the attacks together may add to the memory of Envoy and Triton; one message may have 64 MiB."""


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """The world, before whose end its memory is looked at."""
    async with world(tmp_path_factory.mktemp("hostile")) as running:
        await until(lambda: running.witness.answered > 5, 30)
        before = running.resident_bytes()
        yield running
        assert running.servers() == running.started, "one was replaced"
        assert running.resident_bytes() < before + GROWTH_BYTES


@pytest_asyncio.fixture(loop_scope="package")
async def unharmed(stage: World) -> AsyncIterator[World]:
    """The world for one attack: whatever it does, the good model answers, rightly, without a single failure."""
    yield stage
    assert stage.servers() == stage.started, "one was replaced"
    answered = stage.witness.answered
    await until(lambda: stage.witness.answered > answered + 3, 30)
    assert stage.witness.failures == []
