"""How good a model's answers are: by labels where there are any, else by how far they are the original's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from lepton.golden import Array
from lepton.models import ModelPackage
from services.inference.compress.samples import Part

Run = Callable[[Mapping[str, Array]], Sequence[Array]]
"""A model: its inputs by name to its outputs in the signature's order."""
_BATCH: Final = 32
_NUMBERS: Final = frozenset({"forecaster", "recommender"})


class Measure(StrEnum):
    """What an accuracy is."""

    ACCURACY = "accuracy"
    AGREEMENT = "agreement"
    FIDELITY = "fidelity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """An accuracy from 0 to 1, what it is, and how many answers it is of."""

    accuracy: float
    measure: Measure
    evaluated: int


def measure_of(package: ModelPackage, judged: Part) -> Measure:
    """What can be measured of a model: it needs labels for accuracy, and classes for agreement."""
    output = package.signature.outputs[0]
    recipe = "" if package.architecture is None else package.architecture.name
    if recipe in _NUMBERS or len(output.shape) < 2 or output.shape[-1] == 1 or not output.datatype.startswith("FP"):
        return Measure.FIDELITY
    labels = judged.labels
    if labels is None or labels.dtype != np.int64:
        return Measure.AGREEMENT
    return Measure.ACCURACY


def answers(run: Run, part: Part, *, batch: int = _BATCH) -> Array:
    """The first output for every row, worked off in batches."""
    found = [run(part.rows(slice(at, at + batch)).inputs)[0] for at in range(0, len(part), batch)]
    return np.concatenate(found)


def judge(given: Array, original: Array, part: Part, measure: Measure, heads: Sequence[int] = ()) -> Judgement:
    """Judges answers; `original` are the original model's for the same rows. Several heads count equally."""
    if measure is Measure.FIDELITY:
        wide, right = given.astype(np.float64), original.astype(np.float64)
        spread = float(np.square(right - right.mean(axis=0)).sum())
        lost = float(np.square(wide - right).sum())
        accuracy = 1 - lost / spread if spread else float(lost == 0)
        return Judgement(accuracy=accuracy if np.isfinite(accuracy) else 0.0, measure=measure, evaluated=len(part))
    wanted = _labels(original, heads) if measure is Measure.AGREEMENT or part.labels is None else part.labels
    hits = _labels(given, heads) == wanted.reshape(_labels(given, heads).shape)
    return Judgement(accuracy=float(hits.mean()), measure=measure, evaluated=int(hits.size))


def _labels(answers: Array, heads: Sequence[int]) -> Array:
    # A row of NaN has no largest number: it must not count as class 0.
    clean = np.where(np.isnan(answers).any(axis=-1, keepdims=True), np.nan, answers)
    if len(heads) < 2:
        return _largest(clean)
    return np.stack([_largest(piece) for piece in np.split(clean, np.cumsum(heads)[:-1], axis=-1)], axis=-1)


def _largest(answers: Array) -> Array:
    bad = np.isnan(answers).any(axis=-1)
    found: Array = np.where(bad, -1, np.nan_to_num(answers).argmax(axis=-1))
    return found
