"""Takes one revision from its template to replicas: export, repository, workload; nothing of who gets calls."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

from google.protobuf.field_mask_pb2 import FieldMask

from chassis.artifacts import ArtifactStore
from chassis.controller import Controller, WorkloadFeed
from chassis.kv import Compare
from chassis.logs import logger
from chassis.telemetry import span
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision, PreparedModel
from lepton.models import ModelPackage
from lepton.models.package import ONNX
from lepton.names import VersionName
from lepton.scheduler.v1.program_pb2 import ServedModel
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest, UpdateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference import repository
from services.inference.conversions import Conversions
from services.inference.pipelines import preparing as pipelines
from services.inference.registry import Registry
from services.inference.revisions import Revisions, number_of
from services.inference.serving import (
    export_name,
    export_request,
    exported,
    has_size,
    replica_group,
    serving_name,
    serving_request,
)
from services.inference.sizing import Size

log = logger(__name__)
ENDED: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})
_ENDING: Final = ENDED | {Workload.CANCELLING}


class Workloads(WorkloadFeed, Protocol):
    """What is needed of the scheduler."""

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


class Keeper:
    """Prepares revisions and keeps their replicas as many as they should be."""

    def __init__(
        self,
        controller: Controller,
        workloads: Workloads,
        registry: Registry,
        artifacts: ArtifactStore,
        revisions: Revisions,
        conversions: Conversions,
    ) -> None:
        self._controller, self._workloads, self._registry = controller, workloads, registry
        self._artifacts, self._revisions, self._conversions = artifacts, revisions, conversions

    async def keep(
        self,
        deployment: Deployment,
        revision: DeploymentRevision,
        known: Mapping[int, DeploymentRevision],
        size: Size,
        guard: Compare,
    ) -> DeploymentRevision:
        """Does the next thing that a revision needs to have `size` replicas; the revision as it is then."""
        if revision.state == DeploymentRevision.FAILED:
            return revision
        try:
            if not revision.models:
                revision = await self._prepare(deployment, revision, known, guard)
            if revision.models and revision.state != DeploymentRevision.FAILED:
                revision = await self._serve(deployment, revision, size, guard)
        except InvalidArgument as error:
            # Neither the package nor what is asked of the scheduler will be another the next time.
            return await self._fail(revision, str(error), guard)
        except (NotFound, FailedPrecondition) as error:
            if error.reason not in {"VERSION_NOT_FOUND", "ARTIFACT_NOT_FOUND", "COMPLIANCE_VIOLATION"}:
                raise
            return await self._fail(revision, str(error), guard)
        return revision

    async def end(self, workload: Workload) -> None:
        """Stops a workload that nobody wants; deletes it once it has ended."""
        try:
            if workload.state in ENDED:
                await self._workloads.delete(workload.name)
            elif workload.state != Workload.CANCELLING:
                await self._workloads.cancel(workload.name)
        except (NotFound, FailedPrecondition) as error:
            log.info("workload ends by itself", workload=workload.name, reason=error.reason)

    async def _prepare(
        self,
        deployment: Deployment,
        revision: DeploymentRevision,
        known: Mapping[int, DeploymentRevision],
        guard: Compare,
    ) -> DeploymentRevision:
        if (same := _prepared_before(revision, known)) is not None:
            return await self._prepared(revision, list(same.models), same.package, guard)
        version = await self._registry.get_version(revision.model_version)
        if revision.HasField("pipeline"):
            manifest = await self._export(deployment, revision, guard)
            if not manifest:
                return (await self._revisions.all(deployment.name)).get(number_of(revision), revision)
            served = await pipelines.build(revision, manifest, self._artifacts)
            return await self._prepared(revision, [_model(each) for each in served], version.package, guard)
        package = await self._registry.package(version)
        if repository.needs_export(package):
            onnx = await self._export(deployment, revision, guard)
            if not onnx:
                return (await self._revisions.all(deployment.name)).get(number_of(revision), revision)
            package = replace(package, files={**package.files, ONNX: onnx})
        with span("inference.write_repository", parent=deployment.trace_context, deployment=deployment.name):
            beside = {number: await self._beside(revision, number) for number in repository.versions_beside(revision)}
            served = await repository.build(revision, package, self._artifacts, beside)
        return await self._prepared(revision, [_model(each) for each in served], version.package, guard)

    async def _beside(self, revision: DeploymentRevision, number: int) -> ModelPackage:
        """The package of another version of the model, which is served beside the revision's own."""
        own = VersionName.parse(revision.model_version)
        other = VersionName(own.project, own.model, str(number))
        return await self._registry.package(await self._registry.get_version(str(other)))

    async def _export(self, deployment: Deployment, revision: DeploymentRevision, guard: Compare) -> str:
        """The digest of the revision's ONNX file; empty while there is none."""
        workload = self._controller.workload(str(export_name(deployment, revision)))
        if workload is None:
            version = await self._registry.get_version(revision.model_version)
            pools = await self._conversions.of_revision(deployment, revision)
            request = export_request(deployment, revision, version, pools)
            if revision.HasField("pipeline"):
                await pipelines.amend(request, revision, self._registry, self._artifacts)
            workload = await self._create(deployment, request, "inference.export")
        if workload is None:
            await self._fail(revision, "the workload of its export was deleted", guard)
            return ""
        if onnx := exported(workload):
            return onnx
        if workload.state in ENDED:
            await self._fail(revision, f"the export to ONNX failed: {workload.message or 'no file was made'}", guard)
        return ""

    async def _prepared(
        self, revision: DeploymentRevision, models: list[PreparedModel], package: str, guard: Compare
    ) -> DeploymentRevision:
        fields = {
            "models": models,
            "package": package,
            "state": DeploymentRevision.STARTING,
            "message": "replicas are being placed",
        }
        return await self._revisions.change(revision.name, fields, guard)

    async def _serve(
        self, deployment: Deployment, revision: DeploymentRevision, size: Size, guard: Compare
    ) -> DeploymentRevision:
        if not size.max:
            return await self._sleep(revision, guard)
        workload = self._controller.workload(str(serving_name(deployment, revision)))
        if workload is None and not revision.workload:
            request = serving_request(deployment, revision, size)
            workload = await self._create(deployment, request, "inference.start_replicas")
        if workload is None:
            return await self._fail(revision, "the workload of its replicas was deleted", guard)
        if not revision.workload:
            fields = {"workload": workload.name, "state": DeploymentRevision.STARTING}
            revision = await self._revisions.change(revision.name, fields, guard)
        if workload.state not in _ENDING and not has_size(workload.groups[0], size):
            await self._scale(workload, replica_group(revision, size))
        return revision

    async def _sleep(self, revision: DeploymentRevision, guard: Compare) -> DeploymentRevision:
        """No replicas: from now on nobody wants the workload, and what comes after it is another one."""
        if not revision.workload:
            return revision
        fields = {"workload": "", "incarnation": revision.incarnation + 1, "message": "scaled to none"}
        return await self._revisions.change(revision.name, fields, guard)

    async def _scale(self, workload: Workload, group: object) -> None:
        wanted = Workload(name=workload.name, groups=[group])  # type: ignore[list-item]
        request = UpdateWorkloadRequest(workload=wanted, update_mask=FieldMask(paths=["groups"]))
        await self._workloads.update(request)

    async def _create(self, deployment: Deployment, request: CreateWorkloadRequest, step: str) -> Workload | None:
        # A leader before us may have created it and died: the same request_id gets the same workload.
        with span(step, parent=deployment.trace_context, deployment=deployment.name):
            workload = await self._workloads.create(request)
        if workload is None:
            return None
        log.info("workload created", deployment=deployment.name, workload=workload.name)
        return self._controller.remember(workload)

    async def _fail(self, revision: DeploymentRevision, message: str, guard: Compare) -> DeploymentRevision:
        fields = {"state": DeploymentRevision.FAILED, "message": message}
        return await self._revisions.change(revision.name, fields, guard)


def _prepared_before(
    revision: DeploymentRevision, known: Mapping[int, DeploymentRevision]
) -> DeploymentRevision | None:
    """Another revision whose servers load the same: what was made for it serves this one too."""
    for other in known.values():
        is_same = (other.model_version, other.serving, other.pipeline) == (
            revision.model_version,
            revision.serving,
            revision.pipeline,
        )
        if is_same and other.models:
            return other
    return None


def _model(served: ServedModel) -> PreparedModel:
    return PreparedModel(
        name=served.name, repository=served.repository, golden=served.golden, served=served.SerializeToString()
    )
