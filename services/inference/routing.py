"""What the gateway does with its routes: which replicas it sends requests to now."""

import asyncio
import math
from collections.abc import Mapping
from http.client import HTTPException
from typing import Final, Protocol

from chassis.clock import Clock
from services.inference.envoy import Endpoint
from services.inference.envoy.rejections import Rejections
from services.inference.envoy.routes import cluster_name, of_cluster

_FRESH_S: Final = 0.05
"""One answer of Envoy's serves all deployments that are looked at together."""
_TAKEOVER_S: Final = 0.25
"""Envoy's worker threads follow a moment after its main thread, which is the one that can be asked."""


class Healthy(Protocol):
    """Who can be asked."""

    async def healthy(self) -> Mapping[str, frozenset[Endpoint]]:
        """By cluster: the replicas that get calls."""
        ...


class GatewayRouting:
    """Asks the Envoy beside this service, one time for many deployments."""

    def __init__(self, envoy: Healthy, clock: Clock, rejections: Rejections | None = None) -> None:
        self._envoy, self._clock, self._rejections = envoy, clock, rejections
        self._since: dict[tuple[str, str], float] = {}
        self._asked_at = -math.inf

    def refused(self, model: str) -> tuple[str, ...]:
        """The files that a model's calls depend on and that Envoy has refused: what they changed is not in force."""
        found = self._rejections.now if self._rejections is not None else ()
        return tuple(sorted(path for path in found if not path.startswith("eds/") or _is_of(path, model)))

    async def refused_changed(self) -> None:
        """Returns when Envoy refuses other files than before."""
        if self._rejections is None:
            await asyncio.Event().wait()  # nobody looks
        else:
            await self._rejections.changed()

    async def routed(self, model: str, revision: int) -> frozenset[str]:
        """The replicas (`host:port`) of a revision that get calls now; none while Envoy cannot be asked."""
        cluster = cluster_name(model, revision)
        if self._clock.monotonic() - self._asked_at >= _FRESH_S:
            await self._ask()
        now = self._clock.monotonic()
        return frozenset(
            address for (of, address), began in self._since.items() if of == cluster and now - began >= _TAKEOVER_S
        )

    async def _ask(self) -> None:
        try:
            healthy = await self._envoy.healthy()
        except (OSError, ValueError, LookupError, HTTPException):  # it starts, or something else answers in its place
            healthy = {}
        now = self._asked_at = self._clock.monotonic()
        present = [(model, f"{each.host}:{each.port}") for model, found in healthy.items() for each in found]
        self._since = {replica: self._since.get(replica, now) for replica in present}


def _is_of(path: str, model: str) -> bool:
    target = of_cluster(path.removeprefix("eds/").removesuffix(".json"))
    return target is not None and target[0] == model
