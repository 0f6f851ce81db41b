"""`client.models`: the registry."""

from contextlib import suppress
from typing import Final

from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.errors import AlreadyExists
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.names import ModelName

LATEST: Final = "latest"


class Models(Group):
    """Creates, reads, lists and deletes models and their versions, and moves aliases."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = InferenceServiceStub(calls.channel("inference"))

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

    def list(self, *, project: str | None = None, page_size: int = 0) -> Listing[Model]:
        """The models of a project."""
        parent = self._scope.parent(project)

        async def page(token: str) -> Page[Model]:
            request = pb.ListModelsRequest(parent=parent, page_size=page_size, page_token=token)
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

    def versions(self, model: str, *, page_size: int = 0) -> Listing[ModelVersion]:
        """A model's versions, newest first."""
        name = self._name(model)

        async def page(token: str) -> Page[ModelVersion]:
            request = pb.ListModelVersionsRequest(parent=name, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListModelVersions, request)
            return answer.model_versions, answer.next_page_token

        return Listing(page)

    async def set_alias(self, model: str, alias: str, version: int, *, etag: str = "") -> Model:
        """Point an alias at a version; 0 removes it. Aborted when the model's etag is not this one any more."""
        request = pb.SetModelAliasRequest(name=self._name(model), alias=alias, version=version, etag=etag)
        return await self._calls.unary(self._stub.SetModelAlias, request)

    def _name(self, model: str) -> str:
        return self._scope.name(ModelName, model)
