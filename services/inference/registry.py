"""The registry: models, their immutable versions, and the aliases that move between them."""

import re
import uuid
from collections.abc import Sequence
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.kv import KV, Delete, DeletePrefix, Op, Put, mod, present
from chassis.requests import Claim, Requests
from chassis.resources import now
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.model_pb2 import Lineage, Model, ModelVersion, TensorSpec
from lepton.models.package import GOLDEN, WEIGHTS, ModelPackage, Tensor
from lepton.names import ModelName, ProjectName, VersionName, not_found
from services.inference.store import (
    REQUESTS,
    deployments,
    deployments_prefix,
    models,
    served_key,
    version_key,
    versions,
    versions_prefix,
)

LATEST: Final = "latest"
_NUMBER: Final = re.compile("[1-9][0-9]{0,7}")
_LARGEST_PACKAGE_BYTES: Final = 256 << 10
"""The manifest, not the weights; a version and the record of its request go into one transaction."""


class Registry:
    """Creates and reads models and versions."""

    def __init__(self, kv: KV, artifacts: ArtifactStore) -> None:
        self._kv, self._artifacts = kv, artifacts
        self._models, self._versions, self._deployments = models(kv), versions(kv), deployments(kv)
        self._requests = Requests(kv, REQUESTS)

    async def create_model(self, request: pb.CreateModelRequest) -> Model:
        """A new model without versions. Raises AlreadyExists."""
        name = ModelName(ProjectName.parse(request.parent, "parent").project, request.model_id)
        stamp = now()
        model = Model(
            name=str(name),
            uid=str(uuid.uuid4()),
            display_name=request.model.display_name,
            labels=request.model.labels,
            create_time=stamp,
            update_time=stamp,
        )
        return await self._requests.once(request, Model, lambda claim: self._models.create(name, model, claim))

    async def get_model(self, text: str) -> Model:
        """A model. Raises NotFound."""
        return await self._models.get(ModelName.parse(text))

    async def delete_model(self, request: pb.DeleteModelRequest) -> None:
        """Deletes a model and its versions. Raises NotFound, Aborted, FailedPrecondition (MODEL_DEPLOYED)."""
        name = ModelName.parse(request.name)
        await self._models.get(name)
        mark = await self._kv.get(served_key(name))
        await self._check_not_deployed(name)
        await self._models.delete(
            name,
            etag=request.etag,
            guard=[mod(served_key(name), 0 if mark is None else mark.mod_revision)],
            beside=[DeletePrefix(versions_prefix(name)), Delete(served_key(name))],
        )

    async def set_alias(self, request: pb.SetModelAliasRequest) -> Model:
        """Moves or removes an alias. Raises NotFound, Aborted (ETAG_MISMATCH)."""
        name = ModelName.parse(request.name)
        if request.alias == LATEST:
            raise InvalidArgument("INVALID_FIELD", fields={"alias": "`latest` always means the newest version"})
        await self._models.get(name)
        guard = []
        if request.version:
            version = VersionName(name.project, name.model, str(request.version))
            await self._versions.get(version)
            guard = [present(version_key(version))]

        def move(model: Model) -> None:
            if request.version:
                model.aliases[request.alias] = request.version
            else:
                model.aliases.pop(request.alias, None)

        return await self._models.change(name, move, etag=request.etag, guard=guard)

    async def create_version(self, request: pb.CreateModelVersionRequest) -> ModelVersion:
        """Registers a package as the next version. Raises NotFound, InvalidArgument (PACKAGE_INVALID)."""
        name = ModelName.parse(request.parent, "parent")

        async def add(claim: Claim) -> ModelVersion:
            await self._models.get(name)
            return await self._add(name, await self._describe(name, request.model_version.package), claim)

        return await self._requests.once(request, ModelVersion, add)

    async def get_version(self, text: str) -> ModelVersion:
        """A version, by number, alias or `latest`. Raises NotFound."""
        asked = VersionName.parse(text)
        model = await self._models.find(asked.parent)
        if model is None:
            raise not_found(asked)
        number = asked.version
        if number == LATEST:
            number = str(model.latest_version)
        elif number in model.aliases:
            number = str(model.aliases[number])
        if not _NUMBER.fullmatch(number):
            raise not_found(asked)
        found = await self._versions.find(VersionName(asked.project, asked.model, number))
        if found is None:
            raise not_found(asked)
        return found

    async def package(self, version: ModelVersion) -> ModelPackage:
        """The package of a version."""
        project = VersionName.parse(version.name).project
        return ModelPackage.parse(await self._artifacts.read(project, version.package))

    async def _add(self, name: ModelName, version: ModelVersion, claim: Claim) -> ModelVersion:
        added = ModelVersion()

        def count(model: Model) -> None:
            model.latest_version += 1
            added.CopyFrom(version)
            added.name = str(VersionName(name.project, name.model, str(model.latest_version)))

        def store(_model: Model) -> Sequence[Op]:
            key = version_key(VersionName.parse(added.name))
            return [Put(key, added.SerializeToString()), *claim.record(added, added.name)]

        model = await self._models.change(name, count, guard=claim.guard, beside=store)
        added.etag = model.etag  # both were written at one revision
        return added

    async def _describe(self, name: ModelName, digest: str) -> ModelVersion:
        try:
            if await self._artifacts.size(name.project, digest) > _LARGEST_PACKAGE_BYTES:
                raise _package_invalid("is far too large to be a model package")
            package = ModelPackage.parse(await self._artifacts.read(name.project, digest))
            if missing := [file for file in (WEIGHTS, GOLDEN) if file not in package.files]:
                raise _package_invalid(f"has no {missing[0]}")
            for file in package.files.values():
                await self._artifacts.size(name.project, file)
        except NotFound as error:
            raise _package_invalid(f"an artifact of it is missing: {error.message}") from error
        except (InvalidArgument, FailedPrecondition) as error:
            raise error if error.reason == "PACKAGE_INVALID" else _package_invalid(str(error)) from error
        lineage = package.lineage
        return ModelVersion(
            uid=str(uuid.uuid4()),
            package=digest,
            inputs=map(_tensor, package.signature.inputs),
            outputs=map(_tensor, package.signature.outputs),
            metrics=package.metrics,
            lineage=Lineage(
                job=str(lineage.get("job", "")),
                dataset=str(lineage.get("dataset", "")),
                checkpoint=str(lineage.get("checkpoint", "")),
                recipe=str(lineage.get("recipe", "")),
            ),
            create_time=now(),
        )

    async def _check_not_deployed(self, name: ModelName) -> None:
        page = await self._kv.list(deployments_prefix(name.parent))
        for entry in page.entries:
            deployment = self._deployments.of(entry)
            if deployment.model_version.startswith(f"{name}/"):
                raise FailedPrecondition("MODEL_DEPLOYED", model=str(name), deployment=deployment.name)


def _tensor(tensor: Tensor) -> TensorSpec:
    return TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _package_invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("PACKAGE_INVALID", fields={"model_version.package": problem})
