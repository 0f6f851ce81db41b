"""How a model's architecture is named and configured, without torch, so that services can check one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

from lepton.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassifierConfig:
    """The shape of an `image_classifier`: what comes in, how many classes go out, and how wide it is in between."""

    channels: int
    height: int
    width: int
    classes: int
    features: int = 16
    hidden: int = 64

    def __post_init__(self) -> None:
        limits = {"channels": 64, "height": 1024, "width": 1024, "classes": 65536, "features": 1024, "hidden": 16384}
        for name, most in limits.items():
            value, least = getattr(self, name), 2 if name in ("height", "width", "classes") else 1
            if type(value) is not int or not least <= value <= most:
                raise _invalid(f"config.{name}", f"must be a whole number from {least} to {most}")


NAMES: Final[Mapping[str, type[ImageClassifierConfig]]] = {"image_classifier": ImageClassifierConfig}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A registered name and its configuration: `{"name": "image_classifier", "config": {"channels": 1, ...}}`.

    In a training spec the config may leave out what the dataset decides; in a model package it is complete.
    """

    name: str = "image_classifier"
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise _invalid("name", f"must be one of {', '.join(NAMES)}")
        if unknown := set(self.config) - {item.name for item in fields(NAMES[self.name])}:
            raise _invalid(f"config.{min(unknown)}", "is not a setting of this architecture")

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The architecture that a JSON object holds."""
        if set(document) - {"name", "config"}:
            raise _invalid("architecture", "has the fields 'name' and 'config' only")
        return cls(name=document.get("name", "image_classifier"), config=dict(document.get("config", {})))

    def to_json(self) -> dict[str, Any]:
        """The architecture as a JSON object."""
        return {"name": self.name, "config": dict(self.config)}

    def resolve(self, **defaults: int) -> ImageClassifierConfig:
        """The complete configuration, `defaults` standing in for what the config leaves out."""
        known = {**defaults, **self.config}
        required = ("channels", "height", "width", "classes")
        if missing := [name for name in required if name not in known]:
            raise _invalid(f"config.{missing[0]}", "must be set")
        return NAMES[self.name](**known)

    def complete(self, **defaults: int) -> Self:
        """The same architecture with every setting written out."""
        return type(self)(name=self.name, config=asdict(self.resolve(**defaults)))


def _invalid(path: str, problem: str) -> InvalidArgument:
    field_path = path if path.startswith("architecture") else f"architecture.{path}"
    return InvalidArgument("INVALID_FIELD", fields={field_path: problem})
