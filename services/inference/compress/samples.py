"""The samples that a model is retuned, calibrated and judged with: those it was trained on, given ones, or golden ones.

The division is the trainer's own (its defaults, the package's seed): what is judged on was held out from the training
of the original, and no variant is ever retuned on it. Whoever gives a dataset of their own gets the same division of
that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from lepton.artifacts import ArtifactStore
from lepton.data import AnyDataset, Corpus, Dataset, Texts, parse, partition
from lepton.data.tokens import hashed
from lepton.errors import InvalidArgument, NotFound
from lepton.golden import Array
from lepton.models import ModelPackage
from lepton.models.package import GOLDEN

_TEST_FRACTION: Final = 0.2
_VALIDATION_FRACTION: Final = 0.1
_MOST_JUDGED: Final = 8192
_MOST_CALIBRATED: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Inputs by name, and the labels of the first output where they are known; all have as many rows."""

    inputs: Mapping[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, numbers: Any) -> "Part":
        """Some of the rows, by number or slice."""
        labels = None if self.labels is None else self.labels[numbers]
        return Part(inputs={name: array[numbers] for name, array in self.inputs.items()}, labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What a variant may be retuned with, chosen by, calibrated on, and is judged on."""

    judged: Part
    judged_on: str
    calibration: Part
    training: Part | None = None
    validation: Part | None = None
    heads: tuple[int, ...] = field(default=())
    """The classes of each way of classifying, where there are several side by side."""


def golden(store: ArtifactStore, project: str, package: ModelPackage) -> dict[str, Array]:
    """The golden tensors of a package, by name."""
    from safetensors.numpy import load

    return load(store.read(project, package.files[GOLDEN]))


def gather(store: ArtifactStore, project: str, package: ModelPackage, dataset: str = "") -> Samples:
    """The samples of a dataset (a digest); without one, of that which the model was trained on if it is still stored.

    Where there is neither, or its kind is not that of the recipe, the golden samples are all there is.
    InvalidArgument (DATASET_INVALID) when a dataset that was given does not go with the model.
    """
    traced = str(package.lineage.get("dataset", ""))
    if dataset:
        return _divided(parse(store.read(project, dataset)), package, "given samples, held out")
    if traced and package.architecture is not None:
        try:
            return _divided(parse(store.read(project, traced)), package, "held-out samples")
        except (NotFound, InvalidArgument):
            pass  # it was deleted, or is of a kind that is not read here
    return _golden(golden(store, project, package), package)


def _golden(tensors: Mapping[str, Array], package: ModelPackage) -> Samples:
    part = Part(
        inputs={tensor.name: tensors[tensor.name] for tensor in package.signature.inputs},
        labels=tensors.get(package.signature.labels),
    )
    return Samples(judged=part, judged_on="golden samples", calibration=part, heads=_heads(package))


def _divided(dataset: AnyDataset, package: ModelPackage, judged_on: str) -> Samples:
    x, y, given_test, is_ordered = _arrays(dataset, package)
    (name,) = (tensor.name for tensor in package.signature.inputs)
    parts = partition(
        len(y) - given_test,
        test_fraction=_TEST_FRACTION,
        validation_fraction=_VALIDATION_FRACTION,
        seed=int(str(package.lineage.get("seed", 0))),
        given_test=given_test,
        is_ordered=is_ordered,
    )
    whole = Part(inputs={name: x}, labels=y)
    training = whole.rows(parts.train)
    return Samples(
        judged=whole.rows(parts.test[:_MOST_JUDGED]),
        judged_on=judged_on,
        calibration=training.rows(_spread(len(training), _MOST_CALIBRATED)),
        training=training,
        validation=whole.rows(parts.validation if len(parts.validation) else parts.train),
        heads=_heads(package),
    )


def _arrays(dataset: AnyDataset, package: ModelPackage) -> tuple[Array, Array, int, bool]:
    """Inputs as the served model takes them, labels, how many at the end are a test set, whether they are in order."""
    recipe = "" if package.architecture is None else package.architecture.name
    config: Mapping[str, Any] = {} if package.architecture is None else package.architecture.config
    if isinstance(dataset, Dataset) and recipe in ("image_classifier", ""):
        x, y = dataset.x, dataset.y
        if dataset.x_test is not None and dataset.y_test is not None:
            x, y = np.concatenate([x, dataset.x_test]), np.concatenate([y, dataset.y_test])
        given = 0 if dataset.y_test is None else len(dataset.y_test)
        return _checked(x.astype(np.float32), package), y, given, False
    if isinstance(dataset, Texts) and recipe == "text_classifier":
        tokens = hashed(dataset.texts, vocabulary=int(config["vocabulary"]), length=int(config["length"]))
        return tokens, dataset.y, dataset.given_test, False
    if isinstance(dataset, Corpus) and recipe == "language_model":
        return _windows(dataset, int(config["context"]))
    problem = f"a dataset of the kind {dataset.kind} does not go with {recipe or 'a model without a recipe'}"
    raise InvalidArgument("DATASET_INVALID", problem=f"{problem}; give one of the kind that the model was trained on")


def _checked(x: Array, package: ModelPackage) -> Array:
    tensor = package.signature.inputs[0]
    if tensor.shape[1:] != x.shape[1:] or len(package.signature.inputs) != 1 or tensor.datatype != "FP32":
        problem = f"images of the shape {list(x.shape[1:])} do not go with the input {tensor.name} {list(tensor.shape)}"
        raise InvalidArgument("DATASET_INVALID", problem=f"{problem}; give images of that shape")
    return x


def _windows(corpus: Corpus, context: int) -> tuple[Array, Array, int, bool]:
    boundary = len(corpus) - corpus.given_test
    first, second = np.arange(0, boundary - context, context), np.arange(boundary, len(corpus) - context, context)
    if len(first) < 2:
        problem = f"there are {len(corpus)} bytes of text for a context of {context}; give more"
        raise InvalidArgument("DATASET_INVALID", problem=problem)
    starts = np.concatenate([first, second])[:, None] + np.arange(context)
    content = corpus.content.astype(np.int64)
    return content[starts], content[starts + 1], len(second), True


def _heads(package: ModelPackage) -> tuple[int, ...]:
    if package.architecture is None or package.architecture.name != "image_classifier":
        return ()
    return tuple(package.architecture.config.get("heads", ()))


def _spread(count: int, most: int) -> Array:
    """Numbers of at most `most` of `count` rows, evenly spread over them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
