"""The registry's public methods beside creating and reading: convert in, call, convert out."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.kv import KV
from chassis.paging import Pager
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1 import registry_pb2
from lepton.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.names import ModelName, ProjectName
from services.inference.model_versions import ModelVersions
from services.inference.quarantine import Quarantines
from services.inference.registry import Registry
from services.inference.search import selected
from services.inference.store import models, models_prefix, project_versions_prefix, versions, versions_prefix

_EVERY_MODEL = "-"


class RegistryMethods(InferenceServiceServicer):
    """Lists, changes and deletes models and versions; lineage and quarantine."""

    def __init__(self, kv: KV, registry: Registry, pager: Pager) -> None:
        self._registry, self._pager = registry, pager
        self._changes, self._quarantines = ModelVersions(kv, registry), Quarantines(kv, registry)
        self._models, self._versions = models(kv), versions(kv)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """Lists models, or those that a filter selects."""
        prefix = models_prefix(ProjectName.parse(request.parent, "parent"))
        page = await self._pager.page(prefix, request, keep=selected(request.filter, Model, self._models))
        return pb.ListModelsResponse(models=map(self._models.of, page.entries), next_page_token=page.next_page_token)

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        """Lists versions of a model, or of all of them, or those that a filter selects."""
        keep = selected(request.filter, ModelVersion, self._versions)
        page = await self._pager.page(await self._versions_below(request.parent), request, keep=keep)
        return pb.ListModelVersionsResponse(
            model_versions=map(self._versions.of, page.entries), next_page_token=page.next_page_token
        )

    async def UpdateModel(self, request: registry_pb2.UpdateModelRequest, context: Any) -> Model:
        """Changes a model."""
        return await self._changes.update_model(request)

    async def UpdateModelVersion(self, request: registry_pb2.UpdateModelVersionRequest, context: Any) -> ModelVersion:
        """Changes what is said of a version."""
        return await self._changes.update_version(request)

    async def TransitionModelVersionStage(
        self, request: registry_pb2.TransitionModelVersionStageRequest, context: Any
    ) -> ModelVersion:
        """Moves a version to a stage."""
        return await self._changes.transition(request)

    async def DeleteModelVersion(self, request: registry_pb2.DeleteModelVersionRequest, context: Any) -> Empty:
        """Deletes a version."""
        await self._changes.delete(request)
        return Empty()

    async def GetModelLineage(
        self, request: registry_pb2.GetModelLineageRequest, context: Any
    ) -> registry_pb2.ModelLineage:
        """What a version goes back to, and what goes back to it."""
        return await self._quarantines.lineage(request)

    async def AnalyzeTaint(self, request: registry_pb2.AnalyzeTaintRequest, context: Any) -> registry_pb2.Taint:
        """What a source has touched."""
        return await self._quarantines.analyze(request)

    async def QuarantineModels(self, request: registry_pb2.QuarantineModelsRequest, context: Any) -> registry_pb2.Taint:
        """Takes what a source has touched out of service."""
        return await self._quarantines.quarantine(request)

    async def ReleaseModels(self, request: registry_pb2.ReleaseModelsRequest, context: Any) -> registry_pb2.Taint:
        """Lets what a source has touched back."""
        return await self._quarantines.release(request)

    async def _versions_below(self, parent: str) -> str:
        if parent.endswith(f"/models/{_EVERY_MODEL}"):
            return project_versions_prefix(ProjectName.parse(parent.removesuffix(f"/models/{_EVERY_MODEL}"), "parent"))
        return versions_prefix(ModelName.parse((await self._registry.get_model(parent)).name))
