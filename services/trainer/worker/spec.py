"""The training spec: the JSON that a job's ranks read from LEPTON_SPEC; free of torch, so that services render it.

    {"recipe": "image_classifier", "project": "acme", "dataset": "sha256:..", "epochs": 20, "batch_size": 128,
     "learning_rate": 0.005, "weight_decay": 0.05, "seed": 0, "test_fraction": 0.2, "shift_pixels": 1,
     "checkpoint_every_steps": 0, "report_every_steps": 10,
     "architecture": {"name": "image_classifier", "config": {"features": 16}}}

Only `project` and `dataset` are required. An unknown field is an error, never ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from lepton.artifacts import digest_of, parse_digest
from lepton.errors import InvalidArgument
from lepton.models.architecture import Architecture
from lepton.names import ProjectName

RECIPES: Final = ("image_classifier",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """What to train, on what, and how; equal specs make equal runs."""

    project: str  # the project's id
    dataset: str  # digest of a canonical dataset artifact
    recipe: str = "image_classifier"
    epochs: int = 20
    batch_size: int = 128  # global: divided among however many ranks there are
    learning_rate: float = 0.005
    weight_decay: float = 0.05
    seed: int = 0
    test_fraction: float = 0.2
    shift_pixels: int = 1  # augmentation: random shifts of the training images by so many pixels
    checkpoint_every_steps: int = 0  # 0: at the end of every epoch
    report_every_steps: int = 10
    architecture: Architecture = field(default_factory=Architecture)

    def __post_init__(self) -> None:
        ProjectName(project=self.project)
        parse_digest(self.dataset, "dataset")
        if self.recipe not in RECIPES:
            raise _invalid("recipe", f"must be one of {', '.join(RECIPES)}")
        for name, least, most in _WHOLE:
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise _invalid(name, f"must be a whole number from {least} to {most}")
        for name, above, below in _REAL:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not above <= value < below:
                raise _invalid(name, f"must be a number from {above} to less than {below}")
        if self.learning_rate <= 0 or self.test_fraction <= 0:
            raise _invalid("learning_rate" if self.learning_rate <= 0 else "test_fraction", "must be above 0")

    @classmethod
    def parse(cls, data: bytes | str) -> Self:
        """The spec that a JSON document holds; InvalidArgument naming the first wrong field."""
        try:
            document = json.loads(data)
        except ValueError as error:
            raise _invalid("spec", f"is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise _invalid("spec", "must be a JSON object")
        known = {item.name for item in fields(cls)}
        if unknown := set(document) - known:
            raise _invalid(min(unknown), "is not a field of a training spec")
        for name in ("project", "dataset"):
            if not isinstance(document.get(name), str):
                raise _invalid(name, "must be set to a text")
        if not isinstance(document.get("architecture", {}), dict):
            raise _invalid("architecture", "must be a JSON object")
        settings: Mapping[str, Any] = {
            **document,
            "architecture": Architecture.from_json(document.get("architecture", {})),
        }
        return cls(**settings)

    def render(self) -> bytes:
        """The JSON document; equal specs give equal bytes."""
        document = {item.name: getattr(self, item.name) for item in fields(self)}
        document["architecture"] = self.architecture.to_json()
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """The digest of the rendered spec: what a checkpoint must match to be resumed."""
        return digest_of(self.render())


_WHOLE: Final = (
    ("epochs", 1, 1_000_000),
    ("batch_size", 1, 1_000_000),
    ("seed", 0, 2**53),
    ("shift_pixels", 0, 64),
    ("checkpoint_every_steps", 0, 1_000_000_000),
    ("report_every_steps", 1, 1_000_000),
)
_REAL: Final = (("learning_rate", 0.0, 1000.0), ("weight_decay", 0.0, 1000.0), ("test_fraction", 0.0, 1.0))


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={name: problem})
