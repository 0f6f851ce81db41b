"""The training spec: the JSON that a job's ranks read from LEPTON_SPEC; free of torch, so that services render it.

    {"recipe": "image_classifier", "project": "acme", "dataset": "sha256:..", "epochs": 20, "batch_size": 128,
     "learning_rate": 0.005, "optimizer": "adamw", "weight_decay": 0.05, "schedule": "cosine", "precision": "fp32",
     "seed": 0, "test_fraction": 0.2, "validation_fraction": 0.1, "model": {"features": 16}, ...}

Only `project` and `dataset` are required; what is left out has the recipe's default. An unknown field is an error,
never ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from lepton.artifacts import digest_of, parse_digest
from lepton.errors import InvalidArgument
from lepton.names import ProjectName
from lepton.recipes import RECIPES as INFO
from lepton.recipes import recipe

RECIPES: Final = tuple(INFO)
OPTIMIZERS: Final = ("sgd", "adam", "adamw")
SCHEDULES: Final = ("constant", "linear", "cosine", "step")
PRECISIONS: Final = ("fp32", "bf16", "fp16")
_SGD_FACTOR: Final = 10  # plain gradients are not divided by their size, as Adam's are


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """What to train, on what, and how; equal specs make equal runs. `of` fills in the defaults of other recipes."""

    project: str  # the project's id
    dataset: str  # digest of a canonical dataset artifact
    recipe: str = "image_classifier"
    epochs: int = 20
    batch_size: int = 128  # global: divided among however many ranks there are
    learning_rate: float = 0.008
    seed: int = 0
    test_fraction: float = 0.2  # of all samples, unless the data comes with a test set
    validation_fraction: float = 0.1  # of the rest; 0 = none
    optimizer: str = "adamw"
    momentum: float = 0.0  # of SGD
    weight_decay: float = 0.05
    clip_norm: float = 0.0  # 0: gradients are not cut
    schedule: str = "cosine"
    warmup_steps: int | None = None  # None: a tenth of all steps
    decay: float = 0.1  # of the schedule "step": the factor
    decay_epochs: int = 1  # of the schedule "step": epochs between two
    precision: str = "fp32"
    gradient_accumulation_steps: int = 1
    stop_metric: str = "validation_loss"
    stop_patience_epochs: int = 0  # 0: it never ends early
    stop_min_delta: float = 0.0
    model: Mapping[str, Any] = field(default_factory=dict)  # the recipe's own settings, complete
    initial_model: str = ""  # digest of a model package whose weights are taken over
    freeze_trunk: bool = False
    checkpoint_every_steps: int = 0  # 0: at the end of every epoch
    report_every_steps: int = 10

    def __post_init__(self) -> None:
        ProjectName(project=self.project)
        parse_digest(self.dataset, "dataset")
        object.__setattr__(self, "model", recipe(self.recipe).complete(self.model))
        self._check_numbers()
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise _invalid(name, f"must be one of {', '.join(known)}")
        if self.learning_rate <= 0 or self.test_fraction <= 0:
            raise _invalid("learning_rate" if self.learning_rate <= 0 else "test_fraction", "must be above 0")
        if self.momentum and self.optimizer != "sgd":
            raise _invalid("momentum", f"belongs to SGD; leave it out with {self.optimizer}")
        if self.initial_model:
            parse_digest(self.initial_model, "initial_model")
        if type(self.freeze_trunk) is not bool or (self.freeze_trunk and not self.initial_model):
            raise _invalid("freeze_trunk", "keeps what initial_model brings; set that too")
        if type(self.stop_metric) is not str or not self.stop_metric.startswith("validation_"):
            raise _invalid("stop_metric", "must be a metric of the validation part, such as validation_loss")
        if self.stop_patience_epochs and not self.validation_fraction:
            raise _invalid("stop_patience_epochs", "needs a validation part; set validation_fraction")

    def _check_numbers(self) -> None:
        for name, least, most in _WHOLE:
            value = getattr(self, name)
            if name == "warmup_steps" and value is None:
                continue
            if type(value) is not int or not least <= value <= most:
                raise _invalid(name, f"must be a whole number from {least} to {most}")
        for name, above, below in _REAL:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not above <= value < below:
                raise _invalid(name, f"must be a number from {above} to less than {below}")

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """The spec of these settings, the recipe's defaults filled in; InvalidArgument naming the first wrong one."""
        settings = dict(settings)
        info = recipe(settings.get("recipe", "image_classifier"))
        known = info.defaults
        chosen: dict[str, Any] = {
            "epochs": known.epochs,
            "batch_size": known.batch_size,
            "optimizer": known.optimizer,
            "schedule": known.schedule,
            "stop_metric": known.stop_metric,
            **settings,
        }
        if "weight_decay" not in settings:
            chosen["weight_decay"] = known.weight_decay if chosen["optimizer"] == "adamw" else 0.0
        batch_size = chosen["batch_size"]
        if "learning_rate" not in settings and type(batch_size) is int and batch_size > 0:
            factor = _SGD_FACTOR if chosen["optimizer"] == "sgd" else 1
            chosen["learning_rate"] = known.rate(batch_size) * factor
        return cls(**chosen)

    @classmethod
    def parse(cls, data: bytes | str) -> Self:
        """The spec that a JSON document holds; InvalidArgument naming the first wrong field."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _invalid("spec", f"is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise _invalid("spec", "must be a JSON object")
        document = _modern(document)
        known = {item.name for item in fields(cls)}
        if unknown := set(document) - known:
            raise _invalid(min(unknown), "is not a field of a training spec")
        for name in ("project", "dataset"):
            if not isinstance(document.get(name), str):
                raise _invalid(name, "must be set to a text")
        for name in _TEXTS:
            if not isinstance(document.get(name, ""), str):
                raise _invalid(name, "must be a text")
        if not isinstance(document.get("model", {}), dict):
            raise _invalid("model", "must be a JSON object")
        return cls.of(**document)

    def render(self) -> bytes:
        """The JSON document; equal specs give equal bytes."""
        document = {item.name: getattr(self, item.name) for item in fields(self)}
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """The digest of the rendered spec: what a checkpoint must match to be resumed."""
        return digest_of(self.render())


_TEXTS: Final = ("recipe", "optimizer", "schedule", "precision", "initial_model")
_CHOICES: Final = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
_WHOLE: Final = (
    ("epochs", 1, 1_000_000),
    ("batch_size", 1, 1 << 20),
    ("seed", 0, 2**53),
    ("warmup_steps", 0, 1_000_000_000),
    ("decay_epochs", 1, 1_000_000),
    ("gradient_accumulation_steps", 1, 65536),
    ("stop_patience_epochs", 0, 1_000_000),
    ("checkpoint_every_steps", 0, 1_000_000_000),
    ("report_every_steps", 1, 1_000_000),
)
_REAL: Final = (
    ("learning_rate", 0.0, 1000.0),
    ("weight_decay", 0.0, 1000.0),
    ("test_fraction", 0.0, 1.0),
    ("validation_fraction", 0.0, 1.0),
    ("momentum", 0.0, 1.0),
    ("clip_norm", 0.0, float("inf")),
    ("decay", 0.0, 1.0 + 1e-9),
    ("stop_min_delta", 0.0, float("inf")),
)


def _modern(document: Mapping[str, Any]) -> dict[str, Any]:
    """A spec of the first release, which knew images only, in today's words; any other as it is."""
    document = dict(document)
    former = {name: document.pop(name) for name in ("architecture", "shift_pixels") if name in document}
    if not former:
        return document
    architecture = former.get("architecture", {})
    if not isinstance(architecture, dict) or not isinstance(architecture.get("config", {}), dict):
        raise _invalid("architecture", "must be a JSON object")
    if architecture.get("name", "image_classifier") != "image_classifier":
        raise _invalid("architecture.name", "must be image_classifier")
    model = {"poolings": 1, **architecture.get("config", {}), **document.get("model", {})}
    if "shift_pixels" in former:
        model["shift_pixels"] = former["shift_pixels"]
    return {**document, "model": model}


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={name: problem})
