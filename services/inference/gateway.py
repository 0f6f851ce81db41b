"""Keeps the gateway's routes true: every deployment's replicas that answer, and the keys that sign tokens."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from chassis.controller import WorkloadFeed
from chassis.kv import KV, follow
from chassis.logs import logger
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference.envoy import Endpoint, EnvoyAdmin, Gateway, Route, Routes, TokenRules, render, write
from services.inference.serving import endpoints, serving_name
from services.inference.store import DEPLOYMENTS, deployment_name_of, deployments

log = logger(__name__)
_SETTLE_S: Final = 0.02
"""Changes that come together are written together."""
_TAKEOVER_S: Final = 0.25
"""Envoy's worker threads follow a moment after its main thread, which is the one that can be asked."""


def routes(served: Mapping[str, Deployment], workloads: Mapping[str, Workload]) -> Routes:
    """A route for every deployment that is not being deleted, to those of its replicas that have proved themselves."""
    found = []
    for deployment in served.values():
        workload = workloads.get(str(serving_name(deployment)))
        if deployment.state != Deployment.DELETING and workload is not None:
            addresses = tuple(map(Endpoint.parse, endpoints(workload)))
            found.append(Route(model=deployment.model_name, endpoints=addresses))
    return Routes(routes=tuple(sorted(found, key=lambda route: route.model)))


class GatewayFiles:
    """Writes the files that Envoy follows; whoever runs the service beside an Envoy runs this, leader or not."""

    def __init__(self, kv: KV, feed: WorkloadFeed, gateway: Gateway) -> None:
        self._kv, self._feed, self._gateway = kv, feed, gateway
        self._deployments = deployments(kv)
        self._served: dict[str, Deployment] = {}
        self._workloads: dict[str, Workload] = {}
        self._healthy_since: dict[str, dict[str, float]] = {}
        self._dirty = asyncio.Event()
        self._knows = {what: asyncio.Event() for what in ("deployments", "workloads", "tokens")}

    def use_tokens(self, tokens: TokenRules) -> None:
        """Accepts the tokens that these keys sign."""
        if tokens != self._gateway.tokens:
            self._gateway = replace(self._gateway, tokens=tokens)
            self._knows["tokens"].set()
            self._dirty.set()

    async def routed(self, model: str) -> frozenset[str]:
        """The replicas (`host:port`) that Envoy sends a model's requests to now; none while it cannot be asked."""
        try:
            healthy = await EnvoyAdmin(self._gateway.directory).healthy()
        except OSError:
            return frozenset()
        now, before = time.monotonic(), self._healthy_since.get(model, {})
        since = {f"{each.host}:{each.port}": now for each in healthy.get(model, ())}
        self._healthy_since[model] = since = {address: before.get(address, now) for address in since}
        return frozenset(address for address, began in since.items() if now - began >= _TAKEOVER_S)

    async def run(self) -> None:
        """Keeps the files true, for ever. What Envoy serves stays as it was until everything is known again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_deployments())
            tasks.create_task(self._follow_workloads())
            tasks.create_task(self._write())

    async def _follow_deployments(self) -> None:
        async with aclosing(follow(self._kv, DEPLOYMENTS)) as batches:
            async for batch in batches:
                for event in batch.events:
                    name = str(deployment_name_of(event.key))
                    if event.entry is None:
                        self._served.pop(name, None)
                    else:
                        self._served[name] = self._deployments.of(event.entry)
                self._knows["deployments"].set()
                self._dirty.set()

    async def _follow_workloads(self) -> None:
        async for change in self._feed.watch():
            if change.event == WatchWorkloadsResponse.CHANGED and change.workload.kind == Workload.SERVING:
                self._workloads[change.workload.name] = change.workload
            elif change.event == WatchWorkloadsResponse.DELETED:
                self._workloads.pop(change.workload.name, None)
            elif change.event == WatchWorkloadsResponse.BOOKMARK:
                self._knows["workloads"].set()
            self._dirty.set()

    async def _write(self) -> None:
        for known in self._knows.values():
            await known.wait()
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_SETTLE_S)
            self._dirty.clear()
            files = render(self._gateway, routes(self._served, self._workloads))
            changed = await asyncio.to_thread(write, self._gateway.directory, files)  # fsync blocks
            if changed:
                log.info("gateway configured", files=len(changed))
