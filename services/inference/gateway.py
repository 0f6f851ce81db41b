"""Keeps the gateway's routes true: every deployment's replicas that answer, and the keys that sign tokens."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from chassis.controller import WorkloadFeed
from chassis.kv import KV, follow
from chassis.logs import logger
from chassis.replica_channels import is_loopback, server_name
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.scheduler.v1.scheduler_service_pb2 import WatchWorkloadsResponse
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference import sizing
from services.inference.call_limits import route_limits
from services.inference.envoy import Endpoint, Gateway, Route, Routes, Target, TokenRules, render, write
from services.inference.envoy.rejections import Rejections
from services.inference.envoy.routes import Shadow
from services.inference.holder import Holder
from services.inference.lingering import LINGERS_S, Lingering
from services.inference.references import without_quarantined
from services.inference.revisions import numbered
from services.inference.rollout.advance import IN_PROGRESS
from services.inference.serving import proved, serving_name
from services.inference.store import (
    DEPLOYMENTS,
    QUARANTINED,
    REVISIONS,
    deployment_name_of,
    deployments,
    quarantined_version_of,
    revisions,
)

log = logger(__name__)
_SETTLE_S: Final = 0.02
"""Changes that come together are written together."""
_RETRY_S: Final = 1.0
RECORDER: Final = 99_999_999
"""The revision under which the recorder of live requests stands in a route; no deployment ever gets so far."""
_RECORDED_SHARE: Final = 0.1


def routes(
    served: Mapping[str, Deployment],
    revisions: Mapping[str, DeploymentRevision],
    workloads: Mapping[str, Workload],
    *,
    recorder: Endpoint | None = None,
    holder: Endpoint | None = None,
    lingering: Mapping[str, Sequence[Slice]] | None = None,
) -> Routes:
    """A route for every deployment that is not being deleted, to those of its revisions that have been prepared.

    A target's endpoints are the replicas that have proved themselves. `recorder` gets copies of calls while a rollout
    is in progress, `holder` the calls for which there is no replica. `lingering` are servers, by workload, that answer
    beside their successors.
    """
    found = []
    for deployment in served.values():
        held_by = holder if sizing.may_sleep(deployment) else None
        targets = tuple(_targets(deployment, revisions, workloads, lingering or {}, is_held=held_by is not None))
        if deployment.state == Deployment.DELETING or not targets:
            continue
        shadow = None
        if recorder is not None and len(targets) > 1 and deployment.rollout.state in IN_PROGRESS:
            shadow = Shadow(revision=RECORDER, share=_RECORDED_SHARE)
            targets = (*targets, Target(revision=RECORDER, endpoints=(recorder,), weight=0))
        route = Route(
            model=deployment.model_name,
            targets=targets,
            shadow=shadow,
            holder=held_by,
            limits=route_limits(deployment.limits),
            above=deployment.model_version.partition("/versions/")[0],
        )
        found.append(route)
    return Routes(routes=tuple(sorted(found, key=lambda route: route.model)))


def _targets(
    deployment: Deployment,
    revisions: Mapping[str, DeploymentRevision],
    workloads: Mapping[str, Workload],
    lingering: Mapping[str, Sequence[Slice]],
    *,
    is_held: bool,
) -> Iterator[Target]:
    for target in deployment.rollout.targets:
        revision = revisions.get(str(numbered(deployment, target.revision)))
        if revision is None:
            continue
        workload = workloads.get(str(serving_name(deployment, revision)))
        if workload is None and not (is_held and revision.models):
            continue
        yield Target(
            revision=target.revision,
            endpoints=tuple(_addresses(workload, lingering.get(workload.name, ()), deployment.model_name))
            if workload is not None and not sizing.sleeps(deployment)
            else (),
            weight=target.weight,
            lineage=lineage(revision),
        )


def lineage(revision: DeploymentRevision) -> tuple[tuple[str, str], ...]:
    """What every answer of a revision says of where it comes from."""
    facts = {
        "lepton-model": revision.model_version,
        "lepton-model-version": revision.package,
        "lepton-deployment-revision": revision.name,
    }
    return tuple((key, value) for key, value in facts.items() if value)


def _addresses(workload: Workload, lingering: Sequence[Slice], model: str) -> Iterator[Endpoint]:
    """The replicas, each with what runs the model there: two nodes may have taken different engines."""
    for address, piece in (*proved(workload), *((each.endpoints["grpc"], each) for each in lingering)):
        engine = piece.facts.get(f"engine/{model}", "")
        try:
            engine = engine if engine.isascii() and engine.isprintable() else ""
            name = server_name(piece.node, piece.facts)
            if not name and not is_loopback(address):
                raise ValueError(f"{address} is on another machine and has no certificate")
            yield replace(Endpoint.parse(address), engine=engine, name=name)
        except ValueError as error:  # one agent's mistake must not keep every other model's routes from being written
            log.error("replica without an address", workload=workload.name, problem=str(error))


class GatewayFiles:
    """Writes the files that Envoy follows; whoever runs the service beside an Envoy runs this, leader or not."""

    def __init__(
        self,
        kv: KV,
        feed: WorkloadFeed,
        gateway: Gateway,
        *,
        recorder: Endpoint | None = None,
        holder: Holder | None = None,
        rejections: Rejections | None = None,
    ) -> None:
        self._rejections = rejections
        self._kv, self._feed, self._recorder, self._holder = kv, feed, recorder, holder
        self._gateway = replace(gateway, streams=holder.endpoint) if holder is not None else gateway
        self._deployments, self._revisions = deployments(kv), revisions(kv)
        self._served: dict[str, Deployment] = {}
        self._known: dict[str, DeploymentRevision] = {}
        self._workloads: dict[str, Workload] = {}
        self._quarantined: set[str] = set()
        self._lingering = Lingering()
        self._dirty = asyncio.Event()
        parts = ("deployments", "revisions", "quarantined", "workloads", "tokens")
        self._knows = {what: asyncio.Event() for what in parts}

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
            tasks.create_task(self._follow_revisions())
            tasks.create_task(self._follow_quarantined())
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

    async def _follow_revisions(self) -> None:
        names: dict[str, str] = {}
        async with aclosing(follow(self._kv, REVISIONS)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is None:
                        self._known.pop(names.pop(event.key, ""), None)
                    else:
                        revision = self._revisions.of(event.entry)
                        names[event.key] = revision.name
                        self._known[revision.name] = revision
                self._knows["revisions"].set()
                self._dirty.set()

    async def _follow_quarantined(self) -> None:
        async with aclosing(follow(self._kv, QUARANTINED)) as batches:
            async for batch in batches:
                for event in batch.events:
                    version = str(quarantined_version_of(event.key))
                    (self._quarantined.discard if event.entry is None else self._quarantined.add)(version)
                self._knows["quarantined"].set()
                self._dirty.set()

    async def _follow_workloads(self) -> None:
        async for change in self._feed.watch():
            if change.event == WatchWorkloadsResponse.CHANGED and change.workload.kind == Workload.SERVING:
                known = self._workloads.get(change.workload.name)
                loop = asyncio.get_running_loop()
                if self._lingering.note(known, change.workload, loop.time()):
                    loop.call_later(LINGERS_S + _SETTLE_S, self._dirty.set)
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
            servable = without_quarantined(self._known, self._quarantined)
            holder = self._holder.endpoint if self._holder is not None else None
            lingering = self._lingering.now(self._workloads, asyncio.get_running_loop().time())
            table = routes(
                self._served, servable, self._workloads, recorder=self._recorder, holder=holder, lingering=lingering
            )
            if self._holder is not None:
                self._holder.use(table, self._served)
            files = render(self._gateway, table)
            try:
                changed = await asyncio.to_thread(write, self._gateway.directory, files)  # fsync blocks
            except OSError as error:  # a full disk: Envoy goes on with what it has, and so does the rest of the service
                log.error("gateway not configured", problem=str(error))
                asyncio.get_running_loop().call_later(_RETRY_S, self._dirty.set)
                continue
            if changed:
                log.info("gateway configured", files=len(changed))
            if self._rejections is not None:
                self._rejections.wrote(files)


def is_complete(tokens: TokenRules) -> bool:
    """Whether a gateway with these rules can tell a good token from a bad one."""
    return bool(tokens.issuer and tokens.audience and tokens.jwks and json.loads(tokens.jwks).get("keys"))
