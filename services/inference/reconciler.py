"""Takes every deployment from its model version to replicas that answer: export, repository, workload, state."""

import asyncio
import json
from collections.abc import Collection
from typing import Final, Protocol

from google.protobuf.field_mask_pb2 import FieldMask

from chassis.artifacts import ArtifactStore
from chassis.controller import Controller, WorkloadFeed
from chassis.election import Election
from chassis.kv import KV, Compare, Entry
from chassis.logs import logger
from chassis.resources import now
from chassis.telemetry import span
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
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
    has_size,
    observe,
    replica_group,
    serving_name,
    serving_request,
)
from services.inference.store import DEPLOYMENTS, deployment_name_of, deployments

log = logger(__name__)
_ROUTING_S: Final = 0.1
_ENDED: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})
_ENDING: Final = _ENDED | {Workload.CANCELLING}


class Workloads(WorkloadFeed, Protocol):
    """What the reconciler needs of the scheduler."""

    async def create(self, request: CreateWorkloadRequest) -> Workload | None:
        """Creates a workload, or finds what has become of it: None when it is deleted already."""
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
            kv,
            election,
            workloads,
            prefix=DEPLOYMENTS,
            name_of=_name_of,
            owns=_is_deployment,
            reconcile=self._reconcile,
        )

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        await self._controller.run()

    async def _reconcile(self, name: str, entry: Entry | None, guard: Compare) -> None:
        deployment = None if entry is None else self._deployments.of(entry)
        await self._sweep(name, _wanted(deployment))
        if deployment is None or deployment.state == Deployment.FAILED:
            return
        if deployment.state == Deployment.DELETING:
            await self._remove(deployment, guard)
            return
        try:
            await (self._prepare if deployment.state == Deployment.PREPARING else self._serve)(deployment, guard)
        except InvalidArgument as error:
            # Neither the package nor what is asked of the scheduler will be another the next time.
            await self._fail(deployment, str(error), guard)

    async def _prepare(self, deployment: Deployment, guard: Compare) -> None:
        version = await self._registry.get_version(deployment.model_version)
        workload = self._controller.workload(str(export_name(deployment)))
        if workload is None:
            request = export_request(deployment, version, self._export_pools)
            workload = await self._create(deployment, request, "inference.export")
        if workload is None:
            await self._fail(deployment, "the workload of its export was deleted", guard)
        elif onnx := exported(workload):
            await self._write_repository(deployment, version, onnx, guard)
        elif workload.state in _ENDED:
            await self._fail(deployment, f"the export to ONNX failed: {workload.message or 'no file was made'}", guard)

    async def _create(self, deployment: Deployment, request: CreateWorkloadRequest, step: str) -> Workload | None:
        # A leader before us may have created it and died: the same request_id gets the same workload.
        with span(step, parent=deployment.trace_context, deployment=deployment.name):
            workload = await self._workloads.create(request)
        if workload is None:
            return None
        log.info("workload created", deployment=deployment.name, workload=workload.name)
        return self._controller.remember(workload)

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
        if workload is None and not deployment.workload:
            request = serving_request(deployment, await self._golden(deployment))
            workload = await self._create(deployment, request, "inference.start_replicas")
        if workload is None:
            await self._fail(deployment, "the workload of its replicas was deleted", guard)
            return
        if workload.state not in _ENDING and not has_size(workload.groups[0], deployment):
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
        """Deletes the deployment once nothing runs for it; the gateway stops routing as soon as it is DELETING."""
        if not self._controller.owned(deployment.name):
            await self._deployments.delete(DeploymentName.parse(deployment.name), guard=[guard])
            log.info("deployment deleted", deployment=deployment.name)

    async def _sweep(self, name: str, wanted: Collection[str]) -> None:
        """Ends every workload of a deployment that is not wanted (any more), then deletes it."""
        for workload in self._controller.owned(name):
            if workload.name in wanted:
                continue
            try:
                if workload.state in _ENDED:
                    await self._workloads.delete(workload.name)
                elif workload.state != Workload.CANCELLING:
                    await self._workloads.cancel(workload.name)
            except (NotFound, FailedPrecondition) as error:
                log.info("workload ends by itself", workload=workload.name, reason=error.reason)


def _wanted(deployment: Deployment | None) -> frozenset[str]:
    if deployment is None or deployment.state == Deployment.DELETING:
        return frozenset()
    return frozenset((str(export_name(deployment)), str(serving_name(deployment))))


def _name_of(key: str) -> str:
    return str(deployment_name_of(key))


def _is_deployment(name: str) -> bool:
    try:
        DeploymentName.parse(name)
    except InvalidArgument:
        return False
    return True
