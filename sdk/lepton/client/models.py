"""`client.models`: the registry."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf.field_mask_pb2 import FieldMask

from lepton.client.artifacts import Artifacts, is_file_of
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.errors import AlreadyExists
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1 import registry_pb2
from lepton.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.models.package import ModelPackage
from lepton.names import ModelName, VersionName

if TYPE_CHECKING:
    from lepton.models.importing import Made

LATEST: Final = "latest"
EVERY: Final = "-"
MANIFEST: Final = "package.json"


class Models(Group):
    """Creates, reads, lists and deletes models and their versions, and moves aliases."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = InferenceServiceStub(calls.channel("inference"))
        self._artifacts = Artifacts(calls, scope)

    async def create(
        self, model_id: str, model: Model | None = None, *, project: str | None = None, request_id: str = ""
    ) -> Model:
        """A new model without versions. AlreadyExists."""
        request = pb.CreateModelRequest(
            parent=self._scope.parent(project),
            model_id=model_id,
            model=model or Model(),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateModel, request)

    async def get(self, model: str) -> Model:
        """A model by id or name."""
        return await self._calls.unary(self._stub.GetModel, pb.GetModelRequest(name=self._name(model)))

    def list(self, *, project: str | None = None, page_size: int = 0, filter: str = "") -> Listing[Model]:  # noqa: A002
        """The models of a project, or those that a filter selects (AIP-160): `labels.team = "vision"`."""
        parent = self._scope.parent(project)

        async def page(token: str) -> Page[Model]:
            request = pb.ListModelsRequest(parent=parent, page_size=page_size, page_token=token, filter=filter)
            answer = await self._calls.unary(self._stub.ListModels, request)
            return answer.models, answer.next_page_token

        return Listing(page)

    async def delete(self, model: str, *, etag: str = "") -> None:
        """Delete a model and its versions."""
        await self._calls.unary(self._stub.DeleteModel, pb.DeleteModelRequest(name=self._name(model), etag=etag))

    async def register(
        self, model: str, package: str, *, project: str | None = None, request_id: str = ""
    ) -> ModelVersion:
        """Register a package (a job's `package`) as the model's next version; creates the model if need be."""
        if "/" in model:
            project, model = f"projects/{ModelName.parse(model).project}", model.rpartition("/")[2]
        with suppress(AlreadyExists):
            await self.create(model, project=project)
        return await self.create_version(
            f"{self._scope.parent(project)}/models/{model}", package, request_id=request_id
        )

    async def create_version(self, model: str, package: str, *, request_id: str = "") -> ModelVersion:
        """Register a package as the next version of an existing model."""
        request = pb.CreateModelVersionRequest(
            parent=self._name(model),
            model_version=ModelVersion(package=package),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateModelVersion, request)

    async def get_version(self, model: str, version: str | int = LATEST) -> ModelVersion:
        """A version by number, by alias or the latest."""
        request = pb.GetModelVersionRequest(name=f"{self._name(model)}/versions/{version}")
        return await self._calls.unary(self._stub.GetModelVersion, request)

    def versions(self, model: str = EVERY, *, page_size: int = 0, filter: str = "") -> Listing[ModelVersion]:  # noqa: A002
        """A model's versions, newest first, or every model's (`-`); with a filter those that it selects.

        For example `stage = PRODUCTION AND metrics.accuracy > 0.9` (AIP-160).
        """
        name = f"{self._scope.parent(None)}/models/{EVERY}" if model == EVERY else self._name(model)

        async def page(token: str) -> Page[ModelVersion]:
            request = pb.ListModelVersionsRequest(parent=name, page_size=page_size, page_token=token, filter=filter)
            answer = await self._calls.unary(self._stub.ListModelVersions, request)
            return answer.model_versions, answer.next_page_token

        return Listing(page)

    async def update(self, model: Model, *fields: str) -> Model:
        """Change fields of a model (`description`, `labels`, ...); given an etag, only if it is still the model's."""
        model = Model.FromString(model.SerializeToString())
        model.name = self._name(model.name)
        request = registry_pb2.UpdateModelRequest(model=model, update_mask=FieldMask(paths=fields))
        return await self._calls.unary(self._stub.UpdateModel, request)

    async def update_version(self, version: ModelVersion, *fields: str) -> ModelVersion:
        """Change what is said of a version (`description`, `tags`); given an etag, only if it is still the same."""
        request = registry_pb2.UpdateModelVersionRequest(model_version=version, update_mask=FieldMask(paths=fields))
        return await self._calls.unary(self._stub.UpdateModelVersion, request)

    async def set_stage(
        self, version: str, stage: "ModelVersion.Stage.ValueType", *, archive_existing: bool = False, etag: str = ""
    ) -> ModelVersion:
        """Move a version, by its whole name, to a stage; `archive_existing` archives those that are there."""
        request = registry_pb2.TransitionModelVersionStageRequest(
            name=version, stage=stage, archive_existing=archive_existing, etag=etag
        )
        return await self._calls.unary(self._stub.TransitionModelVersionStage, request)

    async def delete_version(self, version: str, *, etag: str = "") -> None:
        """Delete a version, by its whole name with its number. FailedPrecondition when somebody needs it."""
        request = registry_pb2.DeleteModelVersionRequest(name=version, etag=etag)
        await self._calls.unary(self._stub.DeleteModelVersion, request)

    async def lineage(self, version: str) -> registry_pb2.ModelLineage:
        """What a version, by its whole name, goes back to, and what goes back to it."""
        request = registry_pb2.GetModelLineageRequest(name=version)
        return await self._calls.unary(self._stub.GetModelLineage, request)

    async def taint(self, source: str, *, project: str | None = None) -> registry_pb2.Taint:
        """Which versions and deployments a dataset's digest, or the name of a job or a version, has touched."""
        request = registry_pb2.AnalyzeTaintRequest(parent=self._scope.parent(project), source=source)
        return await self._calls.unary(self._stub.AnalyzeTaint, request)

    async def quarantine(self, source: str, reason: str = "", *, project: str | None = None) -> registry_pb2.Taint:
        """Take all that a source has touched out of service, now and whenever more of it is registered."""
        request = registry_pb2.QuarantineModelsRequest(parent=self._scope.parent(project), source=source, reason=reason)
        return await self._calls.unary(self._stub.QuarantineModels, request)

    async def release(self, source: str, *, project: str | None = None) -> registry_pb2.Taint:
        """End a quarantine. NotFound when there is none."""
        request = registry_pb2.ReleaseModelsRequest(parent=self._scope.parent(project), source=source)
        return await self._calls.unary(self._stub.ReleaseModels, request)

    async def register_files(
        self,
        model: str,
        made: "Made",
        *,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        project: str | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        request_id: str = "",
    ) -> ModelVersion:
        """Upload what `lepton.models.importing.make` has made and register it as the model's next version."""
        digests = {}
        for name, path in sorted(made.files.items()):
            tell = None if progress is None else partial(progress, name)
            digests[str(name)] = (await self._artifacts.upload(path, project=project, progress=tell)).digest
        manifest = made.package(digests).render()
        package = (await self._artifacts.upload(manifest, project=project)).digest
        with suppress(AlreadyExists):
            await self.create(model, project=project)
        request = pb.CreateModelVersionRequest(
            parent=f"{self._scope.parent(project)}/models/{model}",
            model_version=ModelVersion(package=package, description=description, tags=tags),
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateModelVersion, request)

    async def export(
        self, version: ModelVersion, folder: Path, *, progress: Callable[[str, int, int], None] | None = None
    ) -> tuple[Path, ...]:
        """Write a version's files and its manifest, `package.json`, into a folder; what is there whole is not fetched.

        Such a folder can be imported again, into another installation too.
        """
        project = f"projects/{VersionName.parse(version.name).project}"
        manifest = await self._artifacts.download(version.package, project=project)
        written = []
        for name, digest in sorted(ModelPackage.parse(manifest).files.items()):
            path = folder / name
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            if not await asyncio.to_thread(is_file_of, path, digest):
                tell = None if progress is None else partial(progress, name)
                await self._artifacts.download_to(digest, path, project=project, progress=tell)
            written.append(path)
        await asyncio.to_thread((folder / MANIFEST).write_bytes, manifest)
        return (*written, folder / MANIFEST)

    async def set_alias(self, model: str, alias: str, version: int, *, etag: str = "") -> Model:
        """Point an alias at a version; 0 removes it. Aborted when the model's etag is not this one any more."""
        request = pb.SetModelAliasRequest(name=self._name(model), alias=alias, version=version, etag=etag)
        return await self._calls.unary(self._stub.SetModelAlias, request)

    def _name(self, model: str) -> str:
        return self._scope.name(ModelName, model)
