"""What two revisions answered to the same requests, and the numbers that follow; pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Answer = Mapping[str, Array]
_LEAST_SHARE: Final = 1e-4
"""A label that never occurred counts as this share, so that the drift is finite."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """One request and both answers; None = it failed."""

    stable: Answer | None
    candidate: Answer | None
    labels: Array | None = None
    """The true label of each row, where the golden requests have them."""
    is_live: bool = False
    problem: str = ""
    """What the new revision's failure said."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Everything that one comparison has seen."""

    pairs: Sequence[Pair]
    stable_ms: Sequence[float] = ()
    candidate_ms: Sequence[float] = ()
    """Latencies of the same requests, sent in turns to the one and the other."""
    signature: str = ""
    """How the signatures differ; empty = not at all."""
    answered: Sequence[Pair] = field(init=False)
    """The pairs that both have answered."""

    def __post_init__(self) -> None:
        both = tuple(each for each in self.pairs if each.stable is not None and each.candidate is not None)
        object.__setattr__(self, "answered", both)

    @property
    def golden_rows(self) -> int:
        """How many golden rows both have answered."""
        return sum(_rows(each) for each in self.answered if not each.is_live)

    @property
    def live_requests(self) -> int:
        """How many live requests were sent to both."""
        return sum(each.is_live for each in self.pairs)

    @property
    def failed(self) -> int:
        """How many requests the new revision failed that the old one answered."""
        return sum(each.stable is not None and each.candidate is None for each in self.pairs)

    @property
    def asked(self) -> int:
        """How many requests the old revision answered."""
        return sum(each.stable is not None for each in self.pairs)

    @property
    def labelled_rows(self) -> int:
        """How many rows both have given a label."""
        return sum(_labels(each.stable).size for each in self._labelled())

    def largest_difference(self) -> float:
        """The largest difference of any number of any output; infinite where shapes differ or one has no number."""
        return max((_difference(each) for each in self.answered), default=0.0)

    def agreement(self) -> float | None:
        """The share of rows with the same label; None for models that give none."""
        same = [_labels(each.stable) == _labels(each.candidate) for each in self._labelled()]
        return float(np.mean(np.concatenate(same))) if same else None

    def accuracy(self) -> tuple[float, float] | None:
        """The share of right labels of the old and of the new; None without true labels."""
        rights = [
            (_labels(each.stable) == truth, _labels(each.candidate) == truth)
            for each in self._labelled()
            if each.labels is not None and (truth := np.ravel(each.labels)).shape == _labels(each.stable).shape
        ]
        if not rights:
            return None
        old, new = (np.concatenate(column) for column in zip(*rights, strict=True))
        return float(np.mean(old)), float(np.mean(new))

    def drift(self) -> float | None:
        """The population stability index of the labels' spread; None for models that give none."""
        pairs = self._labelled()
        if not pairs:
            return None
        old = np.concatenate([_labels(each.stable) for each in pairs])
        new = np.concatenate([_labels(each.candidate) for each in pairs])
        index = 0.0
        for label in np.union1d(old, new):
            was = max(float(np.mean(old == label)), _LEAST_SHARE)
            now = max(float(np.mean(new == label)), _LEAST_SHARE)
            index += (now - was) * math.log(now / was)
        return index

    def latency_ms(self, quantile: float) -> tuple[float, float] | None:
        """A quantile of the old and of the new latency; None when nothing was timed."""
        if not self.stable_ms or not self.candidate_ms:
            return None
        return float(np.quantile(self.stable_ms, quantile)), float(np.quantile(self.candidate_ms, quantile))

    def _labelled(self) -> list[Pair]:
        return [
            each
            for each in self.answered
            if _labels(each.stable).size and _labels(each.stable).shape == _labels(each.candidate).shape
        ]


def _labels(answer: Answer | None) -> Array:
    """The index of the largest value of each row, in the first output that has classes; empty when none has."""
    for array in (answer or {}).values():
        if array.dtype.kind == "f" and array.ndim >= 2 and array.shape[-1] >= 2:
            return np.ravel(np.argmax(array, axis=-1))
    return np.zeros(0, np.int64)


def _rows(pair: Pair) -> int:
    first = next(iter((pair.stable or {}).values()), None)
    return 1 if first is None or not first.ndim else len(first)


def _difference(pair: Pair) -> float:
    old, new = pair.stable or {}, pair.candidate or {}
    if old.keys() != new.keys():
        return math.inf
    return max((_apart(array, new[name]) for name, array in old.items()), default=0.0)


def _apart(old: Array, new: Array) -> float:
    if old.shape != new.shape:
        return math.inf
    if old.dtype == object or new.dtype == object:
        return 0.0 if bool(np.array_equal(old, new)) else math.inf
    wide: Callable[[Array], Array] = lambda array: array.astype(np.float64)  # noqa: E731
    apart = float(np.max(np.abs(wide(old) - wide(new)), initial=0.0))
    return apart if math.isfinite(apart) else math.inf
