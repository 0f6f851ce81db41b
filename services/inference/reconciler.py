"""Takes every deployment to where its fields say: its revisions to replicas, its calls from one to the next."""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from chassis.artifacts import ArtifactStore
from chassis.controller import Controller
from chassis.election import Election
from chassis.kv import KV, Compare, DeletePrefix, Entry
from chassis.logs import logger
from chassis.resources import now
from lepton.errors import InvalidArgument
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.inference.v1.rollout_pb2 import RolloutStatus
from lepton.names import DeploymentName
from services.inference import sizing
from services.inference.comparing import Side
from services.inference.conversions import Conversions
from services.inference.keeping import Keeper, Workloads
from services.inference.references import why_unservable
from services.inference.registry import Registry
from services.inference.revisions import Revisions, put, revise
from services.inference.rollout import advance as rollout
from services.inference.rollout.seen import Seen, look
from services.inference.serving import endpoints, export_name, observe, serving_name
from services.inference.sizing import Size
from services.inference.store import DEPLOYMENTS, deployment_name_of, deployments, revisions_prefix

log = logger(__name__)
_ROUTING_S: Final = 0.1
_ROLLOUT_S: Final = 0.25
"""A rollout is looked at so often, though nothing may have happened but that time has passed."""


class Routing(Protocol):
    """What the reconciler needs of the gateway."""

    async def routed(self, model: str, revision: int) -> frozenset[str]:
        """The replicas (`host:port`) of a revision that get calls now."""
        ...

    def refused(self, model: str) -> tuple[str, ...]:
        """The files that a model's calls depend on and that the gateway has refused."""
        ...

    async def refused_changed(self) -> None:
        """Returns when the gateway refuses other files than before."""
        ...


class Watch(Protocol):
    """Who finds out how a new revision does."""

    async def evidence(self, deployment: Deployment, sides: tuple[Side, Side] | None) -> rollout.Evidence:
        """What is known of a deployment's rollout now."""
        ...

    async def forget(self, deployment: str) -> None:
        """Its rollout is over."""
        ...

    async def close(self) -> None:
        """Nobody asks any more."""
        ...


class Reconciler:
    """Acts on deployments as long as it leads."""

    def __init__(
        self,
        kv: KV,
        election: Election,
        workloads: Workloads,
        registry: Registry,
        artifacts: ArtifactStore,
        gateway: Routing,
        watch: Watch,
        conversions: Conversions | None = None,
    ) -> None:
        self._kv, self._gateway, self._watch = kv, gateway, watch
        self._deployments, self._revisions = deployments(kv), Revisions(kv)
        self._controller = Controller(
            kv,
            election,
            workloads,
            prefix=DEPLOYMENTS,
            name_of=_name_of,
            owns=_is_deployment,
            reconcile=self._reconcile,
        )
        places = conversions or Conversions(registry)
        self._keeper = Keeper(self._controller, workloads, registry, artifacts, self._revisions, places)

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._controller.run())
                tasks.create_task(self._follow_refused())
        finally:
            await self._watch.close()

    async def _follow_refused(self) -> None:
        while True:
            await self._gateway.refused_changed()
            self._controller.look_at_all()

    async def _reconcile(self, name: str, entry: Entry | None, guard: Compare) -> None:
        deployment = None if entry is None else self._deployments.of(entry)
        known = await self._revisions.all(name) if deployment is not None else {}
        await self._sweep(name, _wanted(deployment, known))
        if deployment is None or deployment.state == Deployment.FAILED:
            return
        if deployment.state == Deployment.DELETING:
            await self._remove(deployment, guard)
        elif not deployment.revision:
            await self._adopt(deployment, guard)
        elif deployment.revision in known:
            await self._bring(deployment, known, guard)
        else:  # the list is older than the deployment
            self._controller.look_again(name, 0)

    async def _bring(self, deployment: Deployment, known: dict[int, DeploymentRevision], guard: Compare) -> None:
        stable = known.get(deployment.rollout.stable_revision) or known[deployment.revision]
        size = sizing.wanted(deployment, stable, now())
        if size.max and sizing.sleeps(deployment):
            self._controller.look_again(deployment.name, sizing.LETTING_GO_S)
        for target in deployment.rollout.targets:
            if target.revision in known:
                held = size.at_most(target.replicas)
                revision = known[target.revision]
                known[target.revision] = await self._keeper.keep(deployment, revision, known, held, guard)
        seen = await self._look(deployment, known)
        evidence = await self._evidence(deployment, known, seen)
        changed = await self._settle(deployment, seen, size, evidence, guard)
        await self._record(changed, known, guard)
        await self._revisions.prune(changed, known, guard)

    async def _look(self, deployment: Deployment, known: Mapping[int, DeploymentRevision]) -> dict[int, Seen]:
        found = {}
        for target in deployment.rollout.targets:
            if target.revision not in known:
                continue
            workload = self._controller.workload(str(serving_name(deployment, known[target.revision])))
            proved = frozenset(endpoints(workload)) if workload is not None else frozenset()
            blocked = await why_unservable(self._kv, known[target.revision])
            asks = bool(proved) and not blocked
            routed = await self._gateway.routed(deployment.model_name, target.revision) if asks else frozenset()
            found[target.revision] = look(target, known[target.revision], workload, routed, blocked)
            if asks and proved - routed:
                self._controller.look_again(deployment.name, _ROUTING_S)
        return found

    async def _evidence(
        self, deployment: Deployment, known: Mapping[int, DeploymentRevision], seen: Mapping[int, Seen]
    ) -> rollout.Evidence:
        status = deployment.rollout
        if status.state not in {RolloutStatus.PROGRESSING, RolloutStatus.PAUSED}:
            await self._watch.forget(deployment.name)
            return rollout.Evidence()
        pair = [seen.get(number) for number in (status.stable_revision, status.candidate_revision)]
        sides = [
            Side(revision=known[each.revision], endpoint=each.endpoint, server_name=each.server_name)
            for each in pair
            if each is not None and each.endpoint
        ]
        return await self._watch.evidence(deployment, (sides[0], sides[1]) if len(sides) == 2 else None)

    async def _settle(
        self,
        deployment: Deployment,
        seen: Mapping[int, Seen],
        size: Size,
        evidence: rollout.Evidence,
        guard: Compare,
    ) -> Deployment:
        """Writes what follows from what was seen; for the deployment as it is now, whoever has changed it meanwhile."""
        stamp = now()
        situation = rollout.Situation(seen=seen, replicas=size.max, floor=size.min, now=stamp, evidence=evidence)

        refused = self._gateway.refused(deployment.model_name)

        def settle(current: Deployment) -> None:
            if current.state in {Deployment.DELETING, Deployment.FAILED}:
                return
            rollout.advance(current, situation)
            status = current.rollout
            first = [situation.of(status.stable_revision)]
            others = [situation.of(each.revision) for each in status.targets if each.revision != first[0].revision]
            observe(current, [*first, *others], size, stamp, refused)

        changed = await self._deployments.change(DeploymentName.parse(deployment.name), settle, guard=[guard])
        if len(changed.rollout.targets) > 1 or changed.rollout.state in rollout.IN_PROGRESS:
            self._controller.look_again(deployment.name, _ROLLOUT_S)
        _tell(deployment, changed)
        return changed

    async def _record(self, deployment: Deployment, known: Mapping[int, DeploymentRevision], guard: Compare) -> None:
        """Brings the revisions' own documents to what became of them."""
        targets = {target.revision: target for target in deployment.rollout.targets}
        ready: dict[int, int] = {}
        for replica in deployment.replica_states:
            ready[replica.revision] = ready.get(replica.revision, 0) + replica.is_ready
        for number, revision in known.items():
            fields: dict[str, object] = {}
            if revision.ready_replicas != ready.get(number, 0):
                fields["ready_replicas"] = ready.get(number, 0)
            state = _state(revision, number in targets, deployment.revision == number, ready.get(number, 0))
            if state != revision.state:
                fields["state"] = state
            if number == deployment.rollout.stable_revision and not revision.HasField("promote_time"):
                fields["promote_time"] = now()
            if fields:
                await self._revisions.change(revision.name, fields, guard)

    async def _adopt(self, deployment: Deployment, guard: Compare) -> None:
        """A deployment from before there were revisions gets its first one."""
        made: list[DeploymentRevision] = []

        def adopt(current: Deployment) -> None:
            made.clear()
            if not current.revision and (revision := revise(current, ())) is not None:
                made.append(revision)
                current.state = Deployment.PREPARING

        await self._deployments.change(
            DeploymentName.parse(deployment.name), adopt, guard=[guard], beside=lambda _: [put(each) for each in made]
        )

    async def _remove(self, deployment: Deployment, guard: Compare) -> None:
        """Deletes the deployment once nothing runs for it; the gateway stops routing as soon as it is DELETING."""
        if not self._controller.owned(deployment.name):
            name = DeploymentName.parse(deployment.name)
            await self._deployments.delete(name, guard=[guard], beside=[DeletePrefix(revisions_prefix(name))])
            log.info("deployment deleted", deployment=deployment.name)

    async def _sweep(self, name: str, wanted: frozenset[str]) -> None:
        """Ends every workload of a deployment that is not wanted (any more), then deletes it."""
        for workload in self._controller.owned(name):
            if workload.name not in wanted:
                await self._keeper.end(workload)


def _wanted(deployment: Deployment | None, known: Mapping[int, DeploymentRevision]) -> frozenset[str]:
    """The workloads of the revisions that have, or are to have, replicas."""
    if deployment is None or deployment.state == Deployment.DELETING:
        return frozenset()
    serving = {target.revision for target in deployment.rollout.targets} & known.keys()
    names = (of(deployment, known[number]) for number in serving for of in (export_name, serving_name))
    return frozenset(map(str, names))


def _state(
    revision: DeploymentRevision, has_replicas: bool, is_wished: bool, ready: int
) -> "DeploymentRevision.State.ValueType":
    if revision.state == DeploymentRevision.FAILED:
        return DeploymentRevision.FAILED
    if has_replicas:
        started = DeploymentRevision.READY if ready else DeploymentRevision.STARTING
        return started if revision.models else DeploymentRevision.PREPARING
    is_new = is_wished and revision.state == DeploymentRevision.PREPARING
    return DeploymentRevision.PREPARING if is_new else DeploymentRevision.RETIRED


def _tell(before: Deployment, after: Deployment) -> None:
    if after.state != before.state:
        log.info("deployment changed", deployment=after.name, state=Deployment.State.Name(after.state))
    if (after.rollout.state, after.rollout.step) != (before.rollout.state, before.rollout.step):
        log.info(
            "rollout changed",
            deployment=after.name,
            state=RolloutStatus.State.Name(after.rollout.state),
            step=after.rollout.step,
            reason=after.rollout.message,
        )


def _name_of(key: str) -> str:
    return str(deployment_name_of(key))


def _is_deployment(name: str) -> bool:
    try:
        DeploymentName.parse(name)
    except InvalidArgument:
        return False
    return True
