"""Takes every deployment from its model version to replicas that answer: export, repository, workload, state."""

import asyncio
import json
from typing import Final, Protocol

from google.protobuf.field_mask_pb2 import FieldMask

from chassis.artifacts import ArtifactStore
from chassis.controller import Controller, WorkloadFeed
from chassis.election import Election
from chassis.kv import KV, Compare, Entry
from chassis.logs import logger
from chassis.resources import now
from chassis.telemetry import span
from lepton.errors import FailedPrecondition, NotFound
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.models.package import GOLDEN
from lepton.names import DeploymentName
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest, UpdateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference import triton_repository
from services.inference.registry import Registry
from services.inference.serving import (
    endpoints,
    export_name,
    export_request,
    exported,
    observe,
    replica_group,
    serving_name,
    serving_request,
)
from services.inference.store import DEPLOYMENTS, deployment_name_of, deployments

log = logger(__name__)
_ROUTING_S: Final = 0.1
_ENDED: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})


class Workloads(WorkloadFeed, Protocol):
    """What the reconciler needs of the scheduler."""

    async def create(self, request: CreateWorkloadRequest) -> Workload:
        """Creates a workload; a repeat of the request gets the first answer."""
        ...

    async def update(self, request: UpdateWorkloadRequest) -> Workload:
        """Changes a workload."""
        ...

    async def cancel(self, name: str) -> None:
        """Stops a workload."""
        ...

    async def delete(self, name: str) -> None:
        """Deletes a workload that has ended."""
        ...


class Routing(Protocol):
    """What the reconciler needs of the gateway."""

    async def routed(self, model: str) -> frozenset[str]:
        """The replicas (`host:port`) that get a model's requests now."""
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
        export_pools: tuple[str, ...] = (),
    ) -> None:
        self._workloads, self._registry, self._artifacts = workloads, registry, artifacts
        self._gateway, self._export_pools = gateway, export_pools
        self._deployments = deployments(kv)
        self._controller = Controller(
            kv, election, workloads, prefix=DEPLOYMENTS, name_of=_name_of, reconcile=self._reconcile
        )

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        await self._controller.run()

    async def _reconcile(self, _name: str, entry: Entry | None, guard: Compare) -> None:
        if entry is None:
            return
        deployment = self._deployments.of(entry)
        if deployment.state == Deployment.DELETING:
            await self._remove(deployment, guard)
        elif deployment.state == Deployment.PREPARING:
            await self._prepare(deployment, guard)
        elif deployment.state != Deployment.FAILED:
            await self._serve(deployment, guard)

    async def _prepare(self, deployment: Deployment, guard: Compare) -> None:
        version = await self._registry.get_version(deployment.model_version)
        workload = self._controller.workload(str(export_name(deployment)))
        if workload is None:
            with span("inference.export", parent=deployment.trace_context, deployment=deployment.name):
                workload = await self._workloads.create(export_request(deployment, version, self._export_pools))
            log.info("export started", deployment=deployment.name, workload=workload.name)
            workload = self._controller.remember(workload)
        if onnx := exported(workload):
            await self._write_repository(deployment, version, onnx, guard)
        elif workload.state in _ENDED:
            await self._fail(deployment, f"the export to ONNX failed: {workload.message or 'no file was made'}", guard)

    async def _write_repository(self, deployment: Deployment, version: ModelVersion, onnx: str, guard: Compare) -> None:
        project = DeploymentName.parse(deployment.name).project
        with span("inference.write_repository", parent=deployment.trace_context, deployment=deployment.name):
            package = await self._registry.package(version)
            model = await self._artifacts.read(project, onnx)
            rendered = await asyncio.to_thread(
                triton_repository.render, deployment.model_name, model, package.signature
            )
            files = {path: await self._artifacts.put_bytes(project, data) for path, data in rendered.items()}
            manifest = json.dumps(files, sort_keys=True).encode()
            repository = await self._artifacts.put_bytes(project, manifest)

        def start(current: Deployment) -> None:
            if current.state == Deployment.PREPARING:
                current.state = Deployment.STARTING
                current.repository = repository
                current.message = "replicas are being placed"

        await self._deployments.change(DeploymentName.parse(deployment.name), start, guard=[guard])

    async def _serve(self, deployment: Deployment, guard: Compare) -> None:
        workload = self._controller.workload(str(serving_name(deployment)))
        if workload is None and deployment.workload:
            await self._fail(deployment, "the workload of its replicas was deleted", guard)
            return
        if workload is None:
            workload = await self._start(deployment)
        elif workload.groups and workload.groups[0].min_count != deployment.replicas:
            workload = await self._scale(deployment)
        proved = frozenset(endpoints(workload))
        routed = await self._gateway.routed(deployment.model_name) if proved else frozenset()
        stamp = now()
        name = DeploymentName.parse(deployment.name)
        changed = await self._deployments.change(
            name, lambda current: observe(current, workload, routed, stamp), guard=[guard]
        )
        if proved - routed:
            self._controller.look_again(deployment.name, _ROUTING_S)
        if changed.state != deployment.state:
            log.info("deployment changed", deployment=deployment.name, state=Deployment.State.Name(changed.state))

    async def _start(self, deployment: Deployment) -> Workload:
        golden = await self._golden(deployment)
        with span("inference.start_replicas", parent=deployment.trace_context, deployment=deployment.name):
            workload = await self._workloads.create(serving_request(deployment, golden))
        log.info("replicas started", deployment=deployment.name, workload=workload.name)
        return self._controller.remember(workload)

    async def _scale(self, deployment: Deployment) -> Workload:
        group = replica_group(deployment, await self._golden(deployment))
        wanted = Workload(name=str(serving_name(deployment)), groups=[group])
        return await self._workloads.update(
            UpdateWorkloadRequest(workload=wanted, update_mask=FieldMask(paths=["groups"]))
        )

    async def _golden(self, deployment: Deployment) -> str:
        version = await self._registry.get_version(deployment.model_version)
        return (await self._registry.package(version)).files[GOLDEN]

    async def _fail(self, deployment: Deployment, message: str, guard: Compare) -> None:
        def fail(current: Deployment) -> None:
            if current.state != Deployment.DELETING:
                current.state = Deployment.FAILED
                current.message = message

        await self._deployments.change(DeploymentName.parse(deployment.name), fail, guard=[guard])

    async def _remove(self, deployment: Deployment, guard: Compare) -> None:
        """Ends the workloads, then the deployment; the gateway stops routing as soon as the state is DELETING."""
        remaining = False
        for name in (str(serving_name(deployment)), str(export_name(deployment))):
            workload = self._controller.workload(name)
            if workload is None:
                continue
            remaining = True
            try:
                if workload.state in _ENDED:
                    await self._workloads.delete(name)
                elif workload.state != Workload.CANCELLING:
                    await self._workloads.cancel(name)
            except (NotFound, FailedPrecondition) as error:
                log.info("workload ends by itself", workload=name, reason=error.reason)
        if not remaining:
            await self._deployments.delete(DeploymentName.parse(deployment.name), guard=[guard])
            log.info("deployment deleted", deployment=deployment.name)


def _name_of(key: str) -> str:
    return str(deployment_name_of(key))
