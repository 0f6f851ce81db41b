"""What the servers of a replica serve."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.agent.replica_settings import ReplicaSettings
from services.agent.served_model import ServedModel
from services.agent.triton_server import ServerFailed, TritonServer


class Charge(Protocol):
    """What a replica's servers serve."""

    @property
    def models(self) -> Sequence[ServedModel]:
        """The models that are loaded and proved, or are to be by `begin`."""
        ...

    @property
    def memory_bytes(self) -> Mapping[str, int]:
        """What each was measured to take, by its name."""
        ...

    async def begin(self, server: TritonServer) -> None:
        """Loads into a new server what it must have before it is ready. Raises ServerFailed."""
        ...

    async def attend(self, server: TritonServer) -> None:
        """Looks after a server that is ready. Returns when a successor should take its place, in good order.

        Raises ServerFailed when it must be replaced at once.
        """
        ...


async def load_and_prove(server: TritonServer, model: ServedModel, settings: ReplicaSettings) -> int:
    """Loads a model and asks its golden requests; the bytes that this took. Raises ServerFailed."""
    before = await asyncio.to_thread(server.memory)
    await server.load(model.name, deadline_s=settings.load_s)
    verdict = await server.prove(model.name, model.golden, deadline_s=settings.golden_s)
    if not verdict.passed:
        raise ServerFailed(f"golden inference of {model.name}: {verdict.outcome}: {verdict.detail}")
    return max(await asyncio.to_thread(server.memory) - before, 0)


class FixedCharge:
    """The same models for all of a replica's life."""

    def __init__(self, models: Sequence[ServedModel], settings: ReplicaSettings) -> None:
        self.models, self._settings = models, settings
        self.memory_bytes: dict[str, int] = {}

    async def begin(self, server: TritonServer) -> None:
        """Loads and proves them all."""
        for model in self.models:
            self.memory_bytes[model.name] = await load_and_prove(server, model, self._settings)

    async def attend(self, server: TritonServer) -> None:
        """Nothing changes."""
        await asyncio.Event().wait()  # for ever
