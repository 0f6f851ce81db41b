"""How many calls, and how many bytes of them, are held for each deployment; what is beyond the bounds is refused."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from chassis.clock import Clock
from lepton.errors import ResourceExhausted

_RETRY_S = 1.0


@dataclass(slots=True)
class Held:
    """The calls that are held for one deployment."""

    since: float
    """When the first of them came."""
    calls: int = 0
    bytes: int = 0
    waking: "asyncio.Task[None] | None" = None
    """What wakes the deployment as long as calls are held for it."""


class HeldCalls:
    """Counts them by model. `most_bytes`: of all deployments together."""

    def __init__(self, clock: Clock, most_bytes: int) -> None:
        self._clock, self._most_bytes = clock, most_bytes
        self._held: dict[str, Held] = {}
        self._bytes = 0

    def counts(self) -> Mapping[str, int]:
        """How many calls are held, by model."""
        return {model: each.calls for model, each in self._held.items()}

    @contextmanager
    def place(self, model: str, deployment: str, most: int) -> Iterator[Held]:
        """A place among at most so many calls that are held for a deployment. Raises ResourceExhausted."""
        held = self._held.setdefault(model, Held(since=self._clock.monotonic()))
        if held.calls >= most:
            raise _full(deployment, held)
        held.calls += 1
        try:
            yield held
        finally:
            held.calls -= 1
            if not held.calls:
                if held.waking is not None:
                    held.waking.cancel()
                if self._held.get(model) is held:
                    del self._held[model]

    @contextmanager
    def room(self, held: Held, deployment: str, size: int, most: int) -> Iterator[None]:
        """Room for a message among at most so many bytes of a deployment. Raises ResourceExhausted."""
        if held.bytes + size > most or self._bytes + size > self._most_bytes:
            raise _full(deployment, held)
        held.bytes += size
        self._bytes += size
        try:
            yield
        finally:
            held.bytes -= size
            self._bytes -= size

    async def close(self) -> None:
        """Wakes nobody any more."""
        waking = [each.waking for each in self._held.values() if each.waking is not None]
        for task in waking:
            task.cancel()
        await asyncio.gather(*waking, return_exceptions=True)


def _full(deployment: str, held: Held) -> ResourceExhausted:
    return ResourceExhausted("HELD_CALLS_FULL", deployment=deployment, held=str(held.calls), retry_after_s=_RETRY_S)
