"""What models and versions can be searched by: the fields of their filters, and the values of each."""

from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any, Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.filtering import Fields, Kind, parse
from chassis.kv import Entry
from chassis.resources import Resources
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.names import ModelName, VersionName

_LINEAGE: Final = ("job", "dataset", "checkpoint", "recipe", "code", "parent", "teacher", "optimization", "source")

MODEL_FIELDS: Final[Fields] = {
    "name": Kind.TEXT,
    "display_name": Kind.TEXT,
    "description": Kind.TEXT,
    "labels": Kind.TEXT_MAP,
    "tags": Kind.TEXT_MAP,
    "aliases": Kind.NUMBER_MAP,
    "latest_version": Kind.NUMBER,
    "deletion_protection": Kind.FLAG,
    "create_time": Kind.TIME,
    "update_time": Kind.TIME,
}
VERSION_FIELDS: Final[Fields] = {
    "name": Kind.TEXT,
    "model": Kind.TEXT,
    "version": Kind.NUMBER,
    "description": Kind.TEXT,
    "tags": Kind.TEXT_MAP,
    "stage": Kind.WORD,
    "metrics": Kind.NUMBER_MAP,
    "quarantined": Kind.FLAG,
    "package": Kind.WORD,
    "forms": Kind.LIST,
    "size_bytes": Kind.NUMBER,
    "create_time": Kind.TIME,
    "ancestry": Kind.LIST,
    **{f"lineage.{name}": Kind.WORD for name in _LINEAGE},
}

R = TypeVar("R", Model, ModelVersion)


def selected(filter_: str, of: type[R], resources: Resources[Any, R]) -> Callable[[Entry], bool] | None:
    """Whether an entry is one that the filter selects; None = all are. Raises InvalidArgument (FILTER_INVALID)."""
    if not filter_.strip():
        return None
    if of is Model:
        accepts = parse(filter_, MODEL_FIELDS)
        return lambda entry: accepts(model_values(resources.of(entry)))
    accepts = parse(filter_, VERSION_FIELDS)
    return lambda entry: accepts(version_values(resources.of(entry)))


def model_values(model: Model) -> Mapping[str, Any]:
    """A model, field by field."""
    return {
        "name": ModelName.parse(model.name).model,
        "display_name": model.display_name,
        "description": model.description,
        "labels": model.labels,
        "tags": model.tags,
        "aliases": model.aliases,
        "latest_version": model.latest_version,
        "deletion_protection": model.deletion_protection,
        "create_time": _time(model.create_time),
        "update_time": _time(model.update_time),
    }


def version_values(version: ModelVersion) -> Mapping[str, Any]:
    """A version, field by field."""
    name = VersionName.parse(version.name)
    return {
        "name": version.name,
        "model": name.model,
        "version": int(name.version),
        "description": version.description,
        "tags": version.tags,
        "stage": stage_word(version.stage),
        "metrics": version.metrics,
        "quarantined": bool(version.quarantine),
        "package": version.package,
        "forms": version.forms,
        "size_bytes": version.size_bytes,
        "create_time": _time(version.create_time),
        "ancestry": version.lineage.ancestry,
        **{f"lineage.{field}": getattr(version.lineage, field) or None for field in _LINEAGE},
    }


def stage_word(stage: "ModelVersion.Stage.ValueType") -> str:
    """A stage as filters and people write it."""
    return ModelVersion.Stage.Name(stage or ModelVersion.NONE)


def _time(stamp: Timestamp) -> Any:
    return stamp.ToDatetime(tzinfo=UTC)
