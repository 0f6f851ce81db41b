"""What the gateway does with its routes: which replicas it sends requests to now."""

import math
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Final, Protocol

from chassis.clock import Clock
from services.inference.envoy import Endpoint, EnvoyAdmin

_FRESH_S: Final = 0.05
"""One answer of Envoy's serves all deployments that are looked at together."""
_TAKEOVER_S: Final = 0.25
"""Envoy's worker threads follow a moment after its main thread, which is the one that can be asked."""


class Healthy(Protocol):
    """Who can be asked."""

    async def healthy(self) -> Mapping[str, frozenset[Endpoint]]:
        """By model: the replicas that get calls."""
        ...


class GatewayRouting:
    """Asks the Envoy beside this service, one time for many deployments."""

    def __init__(self, envoy: Healthy, clock: Clock) -> None:
        self._envoy, self._clock = envoy, clock
        self._since: dict[tuple[str, str], float] = {}
        self._asked_at = -math.inf

    @classmethod
    def of(cls, directory: Path, clock: Clock) -> "GatewayRouting":
        """That of the Envoy whose files lie in a directory."""
        return cls(EnvoyAdmin(directory), clock)

    async def routed(self, model: str) -> frozenset[str]:
        """The replicas (`host:port`) that get a model's requests now; none while Envoy cannot be asked."""
        if self._clock.monotonic() - self._asked_at >= _FRESH_S:
            await self._ask()
        now = self._clock.monotonic()
        return frozenset(
            address for (of, address), began in self._since.items() if of == model and now - began >= _TAKEOVER_S
        )

    async def _ask(self) -> None:
        try:
            healthy = await self._envoy.healthy()
        except (OSError, ValueError, LookupError, HTTPException):  # it starts, or something else answers in its place
            healthy = {}
        now = self._asked_at = self._clock.monotonic()
        present = [(model, f"{each.host}:{each.port}") for model, found in healthy.items() for each in found]
        self._since = {replica: self._since.get(replica, now) for replica in present}
