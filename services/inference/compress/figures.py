"""What is measured of a model, and the report of one variant, as values and as JSON; free of torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from lepton.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Size, speed and accuracy of one model; see Measurement in optimization.proto for the units."""

    bytes: int
    compressed_bytes: int
    parameters: int
    nonzero_parameters: int
    latency_p50_us: float
    latency_p99_us: float
    throughput: float
    accuracy: float
    accuracy_drop: float
    measure: str
    evaluated: int
    evaluated_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of one variant: figures and a package, or the reason why it does not suit."""

    variant: str
    not_applicable: str = ""
    figures: Figures | None = None
    original: Figures | None = None
    package: str = ""
    engine_key: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The report that JSON holds; InvalidArgument when it holds none."""
        try:
            document = json.loads(data)
            return cls(
                variant=str(document["variant"]),
                not_applicable=str(document.get("not_applicable", "")),
                figures=_figures(document.get("figures")),
                original=_figures(document.get("original")),
                package=str(document.get("package", "")),
                engine_key=str(document.get("engine_key", "")),
                notes=tuple(map(str, document.get("notes", ()))),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument("INVALID_FIELD", fields={"report": f"is no variant's report ({error})"}) from error

    def render(self) -> bytes:
        """The report as JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()


def _figures(document: Mapping[str, Any] | None) -> Figures | None:
    return None if document is None else Figures(**document)
