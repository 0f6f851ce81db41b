"""What changes about models and versions after they were made: what is said of them, their stages, their end."""

from collections.abc import Callable, Collection
from typing import Final, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask

from chassis.compliance import asked_by
from chassis.kv import KV, Delete, list_all, mod, present
from lepton.compliance.subjects import of_promotion
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.inference.v1 import registry_pb2 as pb
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.names import ModelName, VersionName
from services.inference.references import quarantined, user_of
from services.inference.registry import Registry
from services.inference.store import (
    model_key,
    models,
    quarantined_key,
    served_key,
    version_key,
    versions,
    versions_prefix,
)

MODEL_FIELDS: Final = frozenset({"display_name", "description", "labels", "tags", "deletion_protection"})
VERSION_FIELDS: Final = frozenset({"description", "tags"})

R = TypeVar("R", Model, ModelVersion)


class ModelVersions:
    """Changes models and versions, moves versions between stages, deletes them."""

    def __init__(self, kv: KV, registry: Registry) -> None:
        self._kv, self._registry = kv, registry
        self._models, self._versions = models(kv), versions(kv)

    async def update_model(self, request: pb.UpdateModelRequest) -> Model:
        """Changes what is said of a model. Raises NotFound, InvalidArgument, Aborted (ETAG_MISMATCH)."""
        change = _changing(request.model, request.update_mask, MODEL_FIELDS)
        return await self._models.change(
            ModelName.parse(request.model.name, "model.name"), change, etag=request.model.etag
        )

    async def update_version(self, request: pb.UpdateModelVersionRequest) -> ModelVersion:
        """Changes what is said of a version. Raises NotFound, InvalidArgument, Aborted (ETAG_MISMATCH)."""
        given = request.model_version
        change = _changing(given, request.update_mask, VERSION_FIELDS)
        return await self._versions.change(_numbered(given.name, "model_version.name"), change, etag=given.etag)

    async def transition(self, request: pb.TransitionModelVersionStageRequest) -> ModelVersion:
        """Moves a version to a stage, and archives those that were there, if asked to.

        Raises NotFound, Aborted, FailedPrecondition (VERSION_QUARANTINED).
        """
        if request.stage == ModelVersion.STAGE_UNSPECIFIED:
            raise InvalidArgument("INVALID_FIELD", fields={"stage": "must be NONE, STAGING, PRODUCTION or ARCHIVED"})
        name = VersionName.parse((await self._registry.get_version(request.name)).name)
        model, stage = await self._models.get(name.parent), ModelVersion.Stage.Name(request.stage)

        def move(version: ModelVersion) -> None:
            if version.stage != request.stage:
                self._registry.compliance.admit(of_promotion(version, model, stage, asked_by()))
            if version.quarantine and request.stage in (ModelVersion.STAGING, ModelVersion.PRODUCTION):
                raise quarantined(version)
            version.stage = request.stage

        moved = await self._versions.change(name, move, etag=request.etag)
        if request.archive_existing and request.stage in (ModelVersion.STAGING, ModelVersion.PRODUCTION):
            await self._archive(name, request.stage)
        return moved

    async def delete(self, request: pb.DeleteModelVersionRequest) -> None:
        """Deletes a version that nobody needs; its package stays in the store.

        Raises NotFound, Aborted, FailedPrecondition (VERSION_IN_USE, DELETION_PROTECTED).
        """
        name = _numbered(request.name, "name")
        model = await self._models.get(name.parent)
        if model.deletion_protection:
            raise FailedPrecondition("DELETION_PROTECTED", model=model.name)
        mark = await self._kv.get(served_key(name.parent))
        if user := await user_of(self._kv, model, name):
            raise FailedPrecondition("VERSION_IN_USE", version=str(name), user=user)
        entry = await self._kv.get(model_key(name.parent))
        if entry is None or self._models.of(entry).etag != model.etag:
            return await self.delete(request)  # an alias has moved meanwhile
        await self._versions.delete(
            name,
            etag=request.etag,
            guard=[
                mod(entry.key, entry.mod_revision),
                mod(served_key(name.parent), 0 if mark is None else mark.mod_revision),
            ],
            beside=[Delete(quarantined_key(name))],
        )
        return None

    async def _archive(self, moved: VersionName, stage: "ModelVersion.Stage.ValueType") -> None:
        page = await list_all(self._kv, versions_prefix(moved.parent))
        for entry in page.entries:
            version = self._versions.of(entry)
            if version.stage == stage and version.name != str(moved):
                name = VersionName.parse(version.name)
                await self._versions.change(name, _archiving(stage), guard=[present(version_key(name))])


def _archiving(stage: "ModelVersion.Stage.ValueType") -> Callable[[ModelVersion], None]:
    def archive(version: ModelVersion) -> None:
        if version.stage == stage:
            version.stage = ModelVersion.ARCHIVED

    return archive


def _changing(given: R, mask: FieldMask, changeable: Collection[str]) -> Callable[[R], None]:
    """What sets the fields of the mask; without a mask those that are set."""
    paths = set(mask.paths)
    if unknown := paths - set(changeable) - {"*"}:
        problem = f"{min(unknown)} cannot be changed; only {', '.join(sorted(changeable))} can"
        raise InvalidArgument("INVALID_FIELD", fields={"update_mask": problem})
    if not paths:
        paths = {field.name for field, _ in given.ListFields()} & set(changeable)
    wanted = set(changeable) if "*" in paths else paths

    def change(current: R) -> None:
        for field in wanted:
            current.ClearField(field)  # type: ignore[arg-type]  # the names are checked above
        part = type(given)()
        FieldMask(paths=sorted(wanted)).MergeMessage(given, part)
        current.MergeFrom(part)

    return change


def _numbered(text: str, field: str) -> VersionName:
    name = VersionName.parse(text, field)
    if not name.version.isdecimal() or name.version.startswith("0") or len(name.version) > 8:
        raise InvalidArgument("INVALID_FIELD", fields={field: "must name the version by its number"})
    return name
