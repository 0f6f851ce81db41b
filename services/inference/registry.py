"""The registry: models, their immutable versions, and the aliases that move between them."""

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.compliance import Compliance, asked_by
from chassis.kv import KV, Compare, Delete, DeletePrefix, Op, Put, list_all, mod, present
from chassis.requests import Claim, Requests
from chassis.resources import now
from lepton.compliance.subjects import of_version
from lepton.errors import Aborted, FailedPrecondition, InvalidArgument
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.model_pb2 import Model, ModelVersion, QuarantineCause
from lepton.models.package import ModelPackage
from lepton.names import ModelName, ProjectName, VersionName, not_found
from services.inference.engine_trust import check_engines
from services.inference.lineage import is_touched
from services.inference.optimizations.keys import optimizations_prefix
from services.inference.package_check import PackageCheck
from services.inference.references import deployed_of, worked_on
from services.inference.store import (
    QUARANTINED,
    REQUESTS,
    models,
    project_versions_prefix,
    quarantine_epoch_key,
    quarantined_key,
    quarantines_prefix,
    served_key,
    version_key,
    versions,
    versions_prefix,
)

LATEST: Final = "latest"
_NUMBER: Final = re.compile("[1-9][0-9]{0,7}")


class Registry:
    """Creates and reads models and versions."""

    def __init__(self, kv: KV, artifacts: ArtifactStore, compliance: Compliance | None = None) -> None:
        self._kv, self._artifacts = kv, artifacts
        self.compliance = compliance or Compliance()
        self._models, self._versions = models(kv), versions(kv)
        self._requests = Requests(kv, REQUESTS)
        self._check = PackageCheck(artifacts, self.get_version, self.all_versions)

    async def create_model(self, request: pb.CreateModelRequest) -> Model:
        """A new model without versions. Raises AlreadyExists."""
        name = ModelName(ProjectName.parse(request.parent, "parent").project, request.model_id)
        stamp = now()
        model = Model(
            name=str(name),
            uid=str(uuid.uuid4()),
            display_name=request.model.display_name,
            description=request.model.description,
            labels=request.model.labels,
            tags=request.model.tags,
            deletion_protection=request.model.deletion_protection,
            create_time=stamp,
            update_time=stamp,
        )
        return await self._requests.once(request, Model, lambda claim: self._models.create(name, model, claim))

    async def get_model(self, text: str) -> Model:
        """A model. Raises NotFound."""
        return await self._models.get(ModelName.parse(text))

    async def delete_model(self, request: pb.DeleteModelRequest) -> None:
        """Deletes a model, its versions and its optimisations.

        Raises NotFound, Aborted, FailedPrecondition (MODEL_DEPLOYED, MODEL_IN_USE).
        """
        name = ModelName.parse(request.name)
        await self._models.get(name)
        mark = await self._kv.get(served_key(name))
        if found := await deployed_of(self._kv, name):
            raise FailedPrecondition("MODEL_DEPLOYED", model=str(name), deployment=found)
        if user := await worked_on(self._kv, name):
            raise FailedPrecondition("MODEL_IN_USE", model=str(name), user=user)

        def check(model: Model) -> None:
            if model.deletion_protection:
                raise FailedPrecondition("DELETION_PROTECTED", model=model.name)

        await self._models.delete(
            name,
            etag=request.etag,
            check=check,
            guard=[mod(served_key(name), 0 if mark is None else mark.mod_revision)],
            beside=[
                DeletePrefix(versions_prefix(name)),
                DeletePrefix(optimizations_prefix(name)),
                DeletePrefix(f"{QUARANTINED}{name.project}/{name.model}/"),
                Delete(served_key(name)),
            ],
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

    async def register(
        self,
        model: ModelName,
        package: ModelPackage,
        *,
        request_id: str,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> ModelVersion:
        """Stores a package's manifest (its files must be stored) and registers it as the next version of a model.

        A repeat with the same `request_id` (a UUID) is the same version. Raises as `create_version`.
        """
        digest = await self._artifacts.put_bytes(model.project, package.render())
        version = ModelVersion(package=digest, tags=tags, description=description)
        return await self.create_version(
            pb.CreateModelVersionRequest(parent=str(model), model_version=version, request_id=request_id)
        )

    async def create_version(self, request: pb.CreateModelVersionRequest) -> ModelVersion:
        """Registers a package as the next version. Raises NotFound, InvalidArgument (PACKAGE_INVALID)."""
        name = ModelName.parse(request.parent, "parent")

        async def add(claim: Claim) -> ModelVersion | None:
            model = await self._models.get(name)
            version = await self._check.describe(name.parent, request.model_version.package)
            await check_engines(self._kv, name.parent, version)
            version.tags.update(request.model_version.tags)
            version.description = request.model_version.description
            version.name = str(VersionName(name.project, name.model, str(model.latest_version + 1)))
            version.creator = asked_by()
            self.compliance.admit(of_version(version, model, version.creator))
            try:
                return await self._add(name, version, claim)
            except Aborted as error:
                if error.reason != "GUARD_FAILED":
                    raise
                return None  # a quarantine has changed meanwhile: look again

        return await self._requests.once(request, ModelVersion, add)

    async def get_version(self, text: str) -> ModelVersion:
        """A version, by number, alias or `latest`. Raises NotFound."""
        asked = VersionName.parse(text)
        model = await self._models.find(asked.parent)
        if model is None:
            raise not_found(asked)
        number = asked.version
        if number == LATEST:
            page = await self._kv.list(versions_prefix(asked.parent), limit=1)
            if not page.entries:
                raise not_found(asked)
            return self._versions.of(page.entries[0])
        if number in model.aliases:
            number = str(model.aliases[number])
        if not _NUMBER.fullmatch(number):
            raise not_found(asked)
        found = await self._versions.find(VersionName(asked.project, asked.model, number))
        if found is None:
            raise not_found(asked)
        return found

    async def all_versions(self, project: ProjectName) -> list[ModelVersion]:
        """The versions of every model of a project."""
        page = await list_all(self._kv, project_versions_prefix(project))
        return [self._versions.of(entry) for entry in page.entries]

    async def package(self, version: ModelVersion) -> ModelPackage:
        """The package of a version."""
        project = VersionName.parse(version.name).project
        return ModelPackage.parse(await self._artifacts.read(project, version.package))

    async def is_quarantined(self, version: str) -> bool:
        """Whether a version, given by its name with its number, must not be served."""
        return await self._kv.get(quarantined_key(VersionName.parse(version))) is not None

    async def _add(self, name: ModelName, version: ModelVersion, claim: Claim) -> ModelVersion:
        added = ModelVersion()
        guard, causes = await self._quarantines(name.parent)

        def count(model: Model) -> None:
            model.latest_version += 1
            added.CopyFrom(version)
            added.name = str(VersionName(name.project, name.model, str(model.latest_version)))
            del added.quarantine[:]
            added.quarantine.extend(cause for cause in causes if is_touched(added, cause.source))

        def store(_model: Model) -> Sequence[Op]:
            made = VersionName.parse(added.name)
            mark = [Put(quarantined_key(made), b"")] if added.quarantine else []
            return [Put(version_key(made), added.SerializeToString()), *mark, *claim.record(added, added.name)]

        model = await self._models.change(name, count, guard=[*claim.guard, guard], beside=store)
        added.etag = model.etag  # both were written at one revision
        return added

    async def _quarantines(self, project: ProjectName) -> tuple[Compare, list[QuarantineCause]]:
        """The sources that are quarantined now, and the condition that it is still those."""
        epoch = await self._kv.get(quarantine_epoch_key(project))
        page = await list_all(self._kv, quarantines_prefix(project))
        causes = [QuarantineCause.FromString(entry.value) for entry in page.entries]
        return mod(quarantine_epoch_key(project), 0 if epoch is None else epoch.mod_revision), causes
