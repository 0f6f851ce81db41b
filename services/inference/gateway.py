"""Keeps the gateway's routes true: every deployment's replicas that answer, and the keys that sign tokens."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from chassis.controller import WorkloadFeed
from chassis.kv import KV, follow
from chassis.logs import logger
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference.envoy import Endpoint, Gateway, Route, Routes, TokenRules, render, write
from services.inference.serving import endpoints, serving_name
from services.inference.store import DEPLOYMENTS, deployment_name_of, deployments

log = logger(__name__)
_SETTLE_S: Final = 0.02
"""Changes that come together are written together."""
_RETRY_S: Final = 1.0


def routes(served: Mapping[str, Deployment], workloads: Mapping[str, Workload]) -> Routes:
    """A route for every deployment that is not being deleted, to those of its replicas that have proved themselves."""
    found = []
    for deployment in served.values():
        workload = workloads.get(str(serving_name(deployment)))
        if deployment.state != Deployment.DELETING and workload is not None:
            found.append(Route(model=deployment.model_name, endpoints=tuple(_addresses(workload))))
    return Routes(routes=tuple(sorted(found, key=lambda route: route.model)))


def _addresses(workload: Workload) -> Iterator[Endpoint]:
    for address in endpoints(workload):
        try:
            yield Endpoint.parse(address)
        except ValueError as error:  # one agent's mistake must not keep every other model's routes from being written
            log.error("replica without an address", workload=workload.name, problem=str(error))


class GatewayFiles:
    """Writes the files that Envoy follows; whoever runs the service beside an Envoy runs this, leader or not."""

    def __init__(self, kv: KV, feed: WorkloadFeed, gateway: Gateway) -> None:
        self._kv, self._feed, self._gateway = kv, feed, gateway
        self._deployments = deployments(kv)
        self._served: dict[str, Deployment] = {}
        self._workloads: dict[str, Workload] = {}
        self._dirty = asyncio.Event()
        self._knows = {what: asyncio.Event() for what in ("deployments", "workloads", "tokens")}

    def use_tokens(self, tokens: TokenRules) -> None:
        """Accepts the tokens that these keys sign. Before the first policy nothing is written at all."""
        if not is_complete(tokens):
            log.error("a policy without issuer, audience or keys was left aside")
        elif tokens != self._gateway.tokens:
            self._gateway = replace(self._gateway, tokens=tokens)
            self._knows["tokens"].set()
            self._dirty.set()

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
            try:
                changed = await asyncio.to_thread(write, self._gateway.directory, files)  # fsync blocks
            except OSError as error:  # a full disk: Envoy goes on with what it has, and so does the rest of the service
                log.error("gateway not configured", problem=str(error))
                asyncio.get_running_loop().call_later(_RETRY_S, self._dirty.set)
                continue
            if changed:
                log.info("gateway configured", files=len(changed))


def is_complete(tokens: TokenRules) -> bool:
    """Whether a gateway with these rules can tell a good token from a bad one."""
    return bool(tokens.issuer and tokens.audience and tokens.jwks and json.loads(tokens.jwks).get("keys"))
