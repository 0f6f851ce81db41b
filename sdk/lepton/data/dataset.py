"""The canonical labelled image dataset, and the seeded division of samples into parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np

from lepton.data.limits import MOST_CLASSES, Array
from lepton.errors import InvalidArgument

_PIXELS: Final = (np.dtype(np.uint8), np.dtype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Images `x` (uint8 or float32, N x C x H x W) with labels `y` (int64, N) from 0 to classes - 1.

    With labels of the shape N x K the images are classified in K ways at once. `x_test` and `y_test` are the test set
    that the data came with, if it did; `names` are the classes' names, of one way only.
    """

    kind: ClassVar[str] = "images"
    x: Array
    y: Array
    x_test: Array | None = None
    y_test: Array | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problem = _problem(self.x, self.y) or self._test_problem()
        if not problem and self.names and (self.y.ndim != 1 or self.tasks[0] > len(self.names)):
            problem = f"there are {len(self.names)} names for {self.tasks} classes; name each class"
        if not problem and max(self.tasks) > MOST_CLASSES:
            problem = f"y holds the label {max(self.tasks) - 1}; number the classes from 0, {MOST_CLASSES} at most"
        if problem:
            raise InvalidArgument("DATASET_INVALID", problem=problem)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def classes(self) -> int:
        """How many classes the labels count to; of the first way, if there are several."""
        return self.tasks[0]

    @property
    def tasks(self) -> tuple[int, ...]:
        """How many classes each way of classifying has."""
        largest = self.y.reshape(len(self.y), -1).max(axis=0)
        if self.y_test is not None:
            largest = np.maximum(largest, self.y_test.reshape(len(self.y_test), -1).max(axis=0))
        counts = tuple(int(value) + 1 for value in largest)
        return (max(counts[0], len(self.names)), *counts[1:])

    def arrays(self) -> Mapping[str, Array]:
        """What the canonical file holds."""
        given = {"x": self.x, "y": self.y, "x_test": self.x_test, "y_test": self.y_test}
        return {name: array for name, array in given.items() if array is not None}

    def facts(self) -> Mapping[str, Any]:
        """What it says beside the arrays."""
        return {"names": list(self.names)} if self.names else {}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """The dataset of a canonical file."""
        return cls(
            x=arrays["x"],
            y=arrays["y"],
            x_test=arrays.get("x_test"),
            y_test=arrays.get("y_test"),
            names=tuple(map(str, facts.get("names", ()))),
        )

    def _test_problem(self) -> str:
        if self.x_test is None or self.y_test is None:
            return "" if self.x_test is self.y_test else "of x_test and y_test only one is given; give both or none"
        problem = _problem(self.x_test, self.y_test, least=1)
        if not problem and (self.x_test.shape[1:], self.x_test.dtype) != (self.x.shape[1:], self.x.dtype):
            problem = f"x_test is {self.x_test.dtype} of shape {self.x_test.shape}, which does not go with x"
        if not problem and self.y_test.shape[1:] != self.y.shape[1:]:
            problem = f"y_test has shape {self.y_test.shape}, which does not go with y"
        return problem and problem.replace("x is", "x_test is").replace("y is", "y_test is")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which samples are trained on and which are held out, as disjoint index arrays that cover the dataset."""

    train: Array
    test: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which samples are trained on, which are chosen by, and which are measured on, as disjoint index arrays."""

    train: Array
    validation: Array
    test: Array


def split(count: int, *, test_fraction: float, seed: int) -> Split:
    """Divides `count` samples; the same arguments give the same division; neither part is empty."""
    if count < 2 or not 0 < test_fraction < 1:
        raise InvalidArgument(
            "INVALID_FIELD", fields={"test_fraction": "must lie between 0 and 1, of at least two samples"}
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    held_out = _share(count, test_fraction, least=1)
    return Split(train=np.sort(order[held_out:]), test=np.sort(order[:held_out]))


def partition(
    count: int,
    *,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
    given_test: int = 0,
    is_ordered: bool = False,
) -> Parts:
    """Divides `count` samples into three parts; the test part is that of `split`, the validation part is of the rest.

    `given_test` samples that lie behind the others are the test part as they are, if there are any. What is ordered,
    as time is, is not shuffled: the end of it is tested on, and what lies before that is chosen by. Of few samples the
    validation part may be empty; the others never are.
    """
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    order = np.arange(count)[::-1] if is_ordered else shuffled
    held_out = 0 if given_test else _share(count, test_fraction, least=1)
    rest = order[held_out:]
    chosen = _share(len(rest), validation_fraction, least=0)
    if len(rest) - chosen < 1:
        raise InvalidArgument("DATASET_INVALID", problem=f"there are {count} samples; give at least two")
    test = np.arange(count, count + given_test) if given_test else np.sort(order[:held_out])
    return Parts(train=np.sort(rest[chosen:]), validation=np.sort(rest[:chosen]), test=test)


def _share(count: int, fraction: float, least: int) -> int:
    return min(max(round(count * fraction), least), max(count - 1, 0))


def _problem(x: Array, y: Array, least: int = 2) -> str:
    if x.ndim != 4 or x.dtype not in _PIXELS:
        return f"x is {x.dtype} of shape {x.shape}; make it uint8 or float32 of shape (N, C, H, W)"
    if y.shape[:1] != x.shape[:1] or y.ndim not in (1, 2) or y.dtype != np.int64:
        return f"y is {y.dtype} of shape {y.shape}; make it int64 of shape ({len(x)},)"
    if len(y) < least or 0 in x.shape or 0 in y.shape:
        return f"x has shape {x.shape}; give at least two images, none of them empty"
    if y.min() < 0:
        return f"y holds the label {y.min()}; number the classes from 0"
    if x.dtype == np.float32 and not np.isfinite(x).all():
        return "x holds NaN or infinite values; remove or replace those images"
    return ""
