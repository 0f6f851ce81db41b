"""How a model's architecture is named and configured, without torch, so that services can check one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

from lepton.errors import InvalidArgument
from lepton.models.settings import (
    ForecasterConfig,
    ImageClassifierConfig,
    LanguageModelConfig,
    RecommenderConfig,
    RiskModelConfig,
    TextClassifierConfig,
)

__all__ = ["NAMES", "Architecture", "Config", "ImageClassifierConfig"]

Config = (
    ImageClassifierConfig
    | TextClassifierConfig
    | LanguageModelConfig
    | ForecasterConfig
    | RecommenderConfig
    | RiskModelConfig
)

NAMES: Final[Mapping[str, type[Config]]] = {
    "image_classifier": ImageClassifierConfig,
    "text_classifier": TextClassifierConfig,
    "language_model": LanguageModelConfig,
    "forecaster": ForecasterConfig,
    "recommender": RecommenderConfig,
    "risk_model": RiskModelConfig,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A registered name and its configuration: `{"name": "image_classifier", "config": {"channels": 1, ...}}`.

    Before the dataset is known the config may leave out what that decides; in a model package it is complete.
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

    def resolve(self, **defaults: Any) -> Config:
        """The complete configuration, `defaults` standing in for what the config leaves out."""
        kind = NAMES[self.name]
        known = {**defaults, **self.config}
        if missing := [name for name in kind.required if name not in known]:
            raise _invalid(f"config.{missing[0]}", "must be set")
        return kind(**known)

    def complete(self, **defaults: Any) -> Self:
        """The same architecture with every setting written out."""
        config = {name: _plain(value) for name, value in asdict(self.resolve(**defaults)).items()}
        if config.get("heads") == []:
            del config["heads"]  # one way of classifying: as packages have always said it
        return type(self)(name=self.name, config=config)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _invalid(path: str, problem: str) -> InvalidArgument:
    field_path = path if path.startswith("architecture") else f"architecture.{path}"
    return InvalidArgument("INVALID_FIELD", fields={field_path: problem})
