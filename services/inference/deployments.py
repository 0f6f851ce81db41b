"""Deployments as their users change them; what follows from a change is the reconciler's."""

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from chassis.access import PolicyReplica
from chassis.callers import caller, creator
from chassis.conditions import Attributes
from chassis.holdings import Limits, Unlimited
from chassis.kv import KV, Compare, Put, present
from chassis.requests import Claim, Requests
from chassis.resources import now
from chassis.telemetry import traceparent
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.names import DeploymentName, PoolName, ProjectName, QueueName, VersionName, not_found
from services.inference.autoscaling import spec as autoscaling
from services.inference.compliance import admit_deployment
from services.inference.pipelines.resolution import resolve
from services.inference.references import check_servable, served_marks, unquarantined
from services.inference.registry import Registry
from services.inference.revisions import TEMPLATE, Revisions, copy_template, number_of, put, revise, template
from services.inference.rollout.advance import first
from services.inference.serving import model_name
from services.inference.serving_check import check_serving
from services.inference.store import REQUESTS, deployments, version_key

_PLAIN: Final = ("display_name", "min_replicas", "strategy", "revision_history_limit", "autoscaling", "limits")
"""What can be changed beside the template and `replicas`, without a new revision."""
_CHANGEABLE: Final = frozenset({"replicas", *_PLAIN, *TEMPLATE}) & frozenset(Deployment.DESCRIPTOR.fields_by_name)

_GOVERNED: Final = frozenset({"strategy", *TEMPLATE})
"""What compliance looks at."""


class Deployments:
    """Creates, changes and takes down deployments."""

    def __init__(
        self,
        kv: KV,
        registry: Registry,
        gateway: str,
        limits: Limits | None = None,
        access: PolicyReplica | None = None,
    ) -> None:
        self._limits, self._access = limits or Unlimited(), access
        self._kv, self._registry, self._gateway = kv, registry, gateway
        self._deployments, self._revisions = deployments(kv), Revisions(kv)
        self._requests = Requests(kv, REQUESTS)

    async def create(self, request: pb.CreateDeploymentRequest) -> Deployment:
        """A new deployment of a version, given by number, alias or `latest`. Raises AlreadyExists, NotFound."""
        return await self._requests.once(request, Deployment, lambda claim: self._create(request, claim))

    async def _create(self, request: pb.CreateDeploymentRequest, claim: Claim) -> Deployment | None:
        name = DeploymentName(ProjectName.parse(request.parent, "parent").project, request.deployment_id)
        _check(request.deployment)
        version = await self._version(name, request.deployment.model_version)
        given = Deployment()
        given.CopyFrom(request.deployment)
        if given.HasField("pipeline"):
            given.pipeline.CopyFrom(await resolve(self._registry, given.pipeline, str(version)))
        deployment, revision = self._new(name, version, given)
        await check_servable(self._kv, revision)
        await admit_deployment(self._registry, deployment)
        deployment.creator = creator()
        guard = [present(version_key(version)), *unquarantined(revision)]
        beside = [*served_marks(revision), put(revision)]
        async with self._limits.admit(deployment.creator) as admitted:
            return await self._deployments.create(
                name, deployment, claim, guard=[*guard, *admitted.guard], beside=[*beside, *admitted.ops]
            )

    async def _version(self, deployment: DeploymentName, text: str) -> VersionName:
        """The version that a deployment asks for, by its number. Raises NotFound."""
        asked = VersionName.parse(text, "deployment.model_version")
        if asked.project != deployment.project:
            raise not_found(asked)
        return VersionName.parse((await self._registry.get_version(str(asked))).name)

    def _new(
        self, name: DeploymentName, version: VersionName, given: Deployment
    ) -> tuple[Deployment, DeploymentRevision]:
        stamp = now()
        deployment = Deployment(
            name=str(name),
            uid=str(uuid.uuid4()),
            display_name=given.display_name,
            replicas=given.replicas,
            priority=given.priority,
            queue=given.queue,
            model_name=model_name(name),
            gateway=self._gateway,
            state=Deployment.PREPARING,
            message="the version is being exported to ONNX",
            trace_context=traceparent(),
            create_time=stamp,
            update_time=stamp,
        )
        _copy(given, deployment, _PLAIN)
        copy_template(given, deployment)
        deployment.model_version = str(version)
        revision = revise(deployment, ())
        assert revision is not None
        first(deployment.rollout, deployment.revision, stamp)
        return deployment, revision

    async def update(self, request: pb.UpdateDeploymentRequest) -> Deployment:
        """Changes a deployment; another template makes a new revision.

        Raises NotFound, InvalidArgument, FailedPrecondition, Aborted.
        """
        wanted, paths = Deployment(), set(request.update_mask.paths)
        wanted.CopyFrom(request.deployment)
        if unknown := paths - _CHANGEABLE - {"*"}:
            problem = f"{min(unknown)} cannot be changed; only {', '.join(sorted(_CHANGEABLE))} can"
            raise InvalidArgument("INVALID_FIELD", fields={"update_mask": problem})
        name = DeploymentName.parse(wanted.name, "deployment.name")
        if not paths:
            paths = {field.name for field, _ in wanted.ListFields()} & _CHANGEABLE
        elif "*" in paths:
            paths = set(_CHANGEABLE)
        guard: list[Compare] = []
        paths -= {field for field in ("model_version", "replicas") if not getattr(wanted, field)}  # there is always one
        if "model_version" in paths:
            version = await self._version(name, wanted.model_version)
            wanted.model_version, guard = str(version), [present(version_key(version))]
        if paths & {"model_version", "pipeline"}:
            await self._resolve(wanted, paths)
            await check_servable(self._kv, wanted)
            guard += unquarantined(wanted)

        def change(current: Deployment) -> None:
            _copy(wanted, current, paths)

        if paths & _GOVERNED:
            await self._admit(name, change)
        return await self._changed(name, change, wanted.etag, guard)

    async def _resolve(self, wanted: Deployment, paths: Collection[str]) -> None:
        """Makes the pipeline explicit that a deployment is to have, and checks it against its version."""
        current = await self._deployments.get(DeploymentName.parse(wanted.name))
        source = wanted if "pipeline" in paths else current
        if source.HasField("pipeline"):
            own = wanted.model_version if "model_version" in paths else current.model_version
            wanted.pipeline.CopyFrom(await resolve(self._registry, source.pipeline, own))

    async def undo(self, request: pb.UndoDeploymentRolloutRequest) -> Deployment:
        """Gives a deployment the template of an earlier revision. Raises NotFound, FailedPrecondition, Aborted."""
        name = DeploymentName.parse(request.name)
        current = await self._deployments.get(name)
        known = await self._revisions.all(request.name)
        number = request.revision or _before(current, known.values())
        if number not in known:
            raise not_found(f"{name}/revisions/{number}")
        await check_servable(self._kv, known[number])
        guard = unquarantined(known[number])
        await self._admit(name, lambda each: copy_template(known[number], each))
        return await self._changed(name, lambda each: copy_template(known[number], each), request.etag, guard)

    async def _admit(self, name: DeploymentName, change: Callable[[Deployment], None]) -> None:
        """Let a change pass as compliance judges what comes of it."""
        after = await self._deployments.get(name)
        change(after)
        await admit_deployment(self._registry, after)

    async def _changed(
        self, name: DeploymentName, change: Callable[[Deployment], None], etag: str, guard: Sequence[Compare] = ()
    ) -> Deployment:
        known = await self._revisions.all(str(name))
        made: list[DeploymentRevision] = []

        def revised(current: Deployment) -> None:
            made.clear()
            if current.state in {Deployment.DELETING, Deployment.FAILED}:
                raise FailedPrecondition("DEPLOYMENT_NOT_SERVING", deployment=current.name)
            before = template(current)
            change(current)
            _check(current)
            self._check_conditions(current)
            if template(current) != before and (revision := revise(current, known.values())) is not None:
                made.append(revision)

        def beside(current: Deployment) -> list[Put]:
            return [*map(put, made), *(served_marks(current) if made else [])]

        return await self._deployments.change(name, revised, etag=etag, guard=guard, beside=beside)

    def _check_conditions(self, changed: Deployment) -> None:
        """Who changes a deployment must be allowed to have it as it is then: in its pools, at its priority."""
        who = caller()
        if self._access is not None and who is not None:
            asked = Attributes(pools=tuple(changed.pools), priority=changed.priority)
            self._access.require(who, "deployments.update", changed.name, asked)

    async def delete(self, request: pb.DeleteDeploymentRequest) -> Deployment:
        """Starts to take a deployment down. Raises NotFound, Aborted."""

        def end(current: Deployment) -> None:
            current.state = Deployment.DELETING
            current.message = "replicas are being stopped"

        return await self._deployments.change(DeploymentName.parse(request.name), end, etag=request.etag)


def _copy(source: Deployment, target: Deployment, fields: Iterable[str]) -> None:
    for field in fields:
        if field not in _CHANGEABLE:
            continue
        target.ClearField(field)  # type: ignore[arg-type]
        part = Deployment()
        part.CopyFrom(source)
        for other, _ in source.ListFields():
            if other.name != field:
                part.ClearField(other.name)  # type: ignore[arg-type]
        target.MergeFrom(part)


def _before(deployment: Deployment, known: Iterable[DeploymentRevision]) -> int:
    """The revision to go back to: that which still gets the calls, else that which got them before."""
    status = deployment.rollout
    if deployment.revision != status.stable_revision:
        return status.stable_revision
    served = [each for each in known if each.HasField("promote_time") and number_of(each) != deployment.revision]
    if not served:
        raise FailedPrecondition("NO_EARLIER_REVISION", deployment=deployment.name)
    return number_of(max(served, key=lambda each: each.promote_time.ToNanoseconds()))


def _check(deployment: Deployment) -> None:
    for index, pool in enumerate(deployment.pools):
        PoolName.parse(pool, f"deployment.pools[{index}]")
    if deployment.queue:
        QueueName.parse(deployment.queue, "deployment.queue")
    check_serving(deployment)
    if deployment.HasField("autoscaling"):
        autoscaling.check(deployment.autoscaling)
        if deployment.min_replicas:
            problem = "must be 0 where autoscaling is set: autoscaling.min_replicas says it"
            raise InvalidArgument("INVALID_FIELD", fields={"deployment.min_replicas": problem})
    if deployment.min_replicas > deployment.replicas:
        problem = f"must be 0 or at most replicas, which is {deployment.replicas}"
        raise InvalidArgument("INVALID_FIELD", fields={"deployment.min_replicas": problem})
