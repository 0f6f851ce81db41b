"""Deployments as their users change them; what follows from a change is the reconciler's."""

import uuid

from chassis.kv import KV, Put, present
from chassis.requests import Claim, Requests
from chassis.resources import now
from chassis.telemetry import traceparent
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.names import DeploymentName, PoolName, ProjectName, QueueName, VersionName, not_found
from services.inference.registry import Registry
from services.inference.serving import model_name
from services.inference.store import REQUESTS, deployments, served_key, version_key

_CHANGEABLE = frozenset({"replicas", "min_replicas"})


class Deployments:
    """Creates, changes and takes down deployments."""

    def __init__(self, kv: KV, registry: Registry, gateway: str) -> None:
        self._registry, self._gateway = registry, gateway
        self._deployments = deployments(kv)
        self._requests = Requests(kv, REQUESTS)

    async def create(self, request: pb.CreateDeploymentRequest) -> Deployment:
        """A new deployment of a version, given by number, alias or `latest`. Raises AlreadyExists, NotFound."""
        return await self._requests.once(request, Deployment, lambda claim: self._create(request, claim))

    async def _create(self, request: pb.CreateDeploymentRequest, claim: Claim) -> Deployment | None:
        name = DeploymentName(ProjectName.parse(request.parent, "parent").project, request.deployment_id)
        asked = VersionName.parse(request.deployment.model_version, "deployment.model_version")
        if asked.project != name.project:
            raise not_found(asked)
        for index, pool in enumerate(request.deployment.pools):
            PoolName.parse(pool, f"deployment.pools[{index}]")
        if request.deployment.queue:
            QueueName.parse(request.deployment.queue, "deployment.queue")
        _check_floor(request.deployment)
        version = VersionName.parse((await self._registry.get_version(str(asked))).name)
        deployment = self._new(name, version, request.deployment)
        return await self._deployments.create(
            name,
            deployment,
            claim,
            guard=[present(version_key(version))],
            beside=[Put(served_key(version.parent), b"")],
        )

    def _new(self, name: DeploymentName, version: VersionName, given: Deployment) -> Deployment:
        stamp = now()
        return Deployment(
            name=str(name),
            uid=str(uuid.uuid4()),
            display_name=given.display_name,
            model_version=str(version),
            replicas=given.replicas,
            pools=given.pools,
            priority=given.priority,
            queue=given.queue,
            min_replicas=given.min_replicas,
            cpu_milli=given.cpu_milli,
            memory_bytes=given.memory_bytes,
            model_name=model_name(name),
            gateway=self._gateway,
            state=Deployment.PREPARING,
            message="the version is being exported to ONNX",
            trace_context=traceparent(),
            create_time=stamp,
            update_time=stamp,
        )

    async def update(self, request: pb.UpdateDeploymentRequest) -> Deployment:
        """Changes how many replicas there are. Raises NotFound, InvalidArgument, FailedPrecondition, Aborted."""
        wanted, paths = request.deployment, set(request.update_mask.paths)
        if unknown := paths - _CHANGEABLE - {"*"}:
            problem = f"{min(unknown)} cannot be changed; only {', '.join(sorted(_CHANGEABLE))} can"
            raise InvalidArgument("INVALID_FIELD", fields={"update_mask": problem})

        def change(current: Deployment) -> None:
            if current.state in {Deployment.DELETING, Deployment.FAILED}:
                raise FailedPrecondition("DEPLOYMENT_NOT_SERVING", deployment=current.name)
            if not paths or paths & {"replicas", "*"}:
                current.replicas = wanted.replicas or current.replicas
            if paths & {"min_replicas", "*"} or (not paths and wanted.min_replicas):
                current.min_replicas = wanted.min_replicas
            _check_floor(current)

        name = DeploymentName.parse(wanted.name, "deployment.name")
        return await self._deployments.change(name, change, etag=wanted.etag)

    async def delete(self, request: pb.DeleteDeploymentRequest) -> Deployment:
        """Starts to take a deployment down. Raises NotFound, Aborted."""

        def end(current: Deployment) -> None:
            current.state = Deployment.DELETING
            current.message = "replicas are being stopped"

        return await self._deployments.change(DeploymentName.parse(request.name), end, etag=request.etag)


def _check_floor(deployment: Deployment) -> None:
    if deployment.min_replicas > deployment.replicas:
        problem = f"must be 0 or at most replicas, which is {deployment.replicas}"
        raise InvalidArgument("INVALID_FIELD", fields={"deployment.min_replicas": problem})
