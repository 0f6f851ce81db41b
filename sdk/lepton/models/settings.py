"""The complete configurations of the architectures, each checked field by field; free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from lepton.errors import InvalidArgument

Limits = Mapping[str, tuple[int, int]]
_SIDE: Final = (2, 1024)
_WIDTH: Final = (1, 16384)
_MOST_ROWS: Final = 1 << 26  # of an embedding


def _check(config: Any, limits: Limits) -> None:
    for name, (least, most) in limits.items():
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= most:
            raise invalid(name, f"must be a whole number from {least} to {most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassifierConfig:
    """The shape of an `image_classifier`: what comes in, how many classes go out, and how wide it is in between.

    With several ways of classifying, `heads` holds the classes of each, and `classes` their sum. With one pooling it
    comes after the second convolution; with more there is a convolution before each.
    """

    required: ClassVar[tuple[str, ...]] = ("channels", "height", "width", "classes")
    channels: int
    height: int
    width: int
    classes: int
    features: int = 16
    hidden: int = 64
    poolings: int = 1
    heads: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        limits = {"channels": (1, 64), "height": _SIDE, "width": _SIDE, "classes": (2, 65536), "features": (1, 1024)}
        _check(self, {**limits, "hidden": _WIDTH, "poolings": (1, 4)})
        if min(self.height, self.width) < 2**self.poolings:
            raise invalid("poolings", f"leaves nothing of {self.height} x {self.width} pixels; use fewer")
        object.__setattr__(self, "heads", tuple(self.heads))
        if self.heads and (
            any(type(each) is not int or each < 1 for each in self.heads) or sum(self.heads) != self.classes
        ):
            raise invalid("heads", "must be whole numbers whose sum is `classes`")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassifierConfig:
    """The shape of a `text_classifier`: token numbers below `vocabulary` come in, `length` of them."""

    required: ClassVar[tuple[str, ...]] = ("classes", "vocabulary", "length")
    classes: int
    vocabulary: int
    length: int
    width: int = 64

    def __post_init__(self) -> None:
        _check(self, {"classes": (2, 65536), "vocabulary": (2, _MOST_ROWS), "length": (1, 65536), "width": _WIDTH})


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """The shape of a `language_model`: a decoder-only transformer over `vocabulary` tokens, `context` at a time."""

    required: ClassVar[tuple[str, ...]] = ("vocabulary", "context")
    vocabulary: int
    context: int
    width: int = 64
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        limits = {"vocabulary": (2, _MOST_ROWS), "context": (1, 65536), "width": _WIDTH, "layers": (1, 256)}
        _check(self, {**limits, "heads": (1, 256)})
        if self.width % self.heads:
            raise invalid("heads", f"must divide the width {self.width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecasterConfig:
    """The shape of a `forecaster`: `window` moments of `series` series come in, `horizon` moments go out."""

    required: ClassVar[tuple[str, ...]] = ("series", "window", "horizon")
    series: int
    window: int
    horizon: int
    hidden: int = 64

    def __post_init__(self) -> None:
        limits = {"series": (1, 4096), "window": (1, 65536), "horizon": (1, 65536), "hidden": _WIDTH}
        _check(self, limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommenderConfig:
    """The shape of a `recommender`: numbers of users and items come in, a rating goes out."""

    required: ClassVar[tuple[str, ...]] = ("users", "items")
    users: int
    items: int
    width: int = 16
    hidden: int = 32

    def __post_init__(self) -> None:
        _check(self, {"users": (1, _MOST_ROWS), "items": (1, _MOST_ROWS), "width": _WIDTH, "hidden": _WIDTH})


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskModelConfig:
    """The shape of a `risk_model`: for each column how many categories it has, 0 where it holds numbers."""

    required: ClassVar[tuple[str, ...]] = ("columns", "classes")
    columns: tuple[int, ...]
    classes: int
    hidden: int = 64
    layers: int = 2

    def __post_init__(self) -> None:
        _check(self, {"classes": (2, 65536), "hidden": _WIDTH, "layers": (1, 64)})
        object.__setattr__(self, "columns", tuple(self.columns))
        if not 1 <= len(self.columns) <= 65536 or any(type(each) is not int or each < 0 for each in self.columns):
            raise invalid("columns", "must list a whole number for each column, 0 where it holds numbers")


def invalid(name: str, problem: str) -> InvalidArgument:
    """The error for a wrong field of a configuration."""
    return InvalidArgument("INVALID_FIELD", fields={f"architecture.config.{name}": problem})
