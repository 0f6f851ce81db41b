"""The model package: one JSON manifest, itself an artifact, that names all it takes to serve and explain a model.

    {"format": "lepton.model/1",
     "architecture": {"name": "image_classifier", "config": {"channels": 1, "height": 8, "width": 8, ...}},
     "files": {"weights.safetensors": "sha256:..", "golden.safetensors": "sha256:.."},
     "signature": {"inputs":  [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
                   "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]},
     "metrics": {"accuracy": 0.98, "loss": 0.05},
     "lineage": {"job": "projects/p/jobs/j", "dataset": "sha256:..", "checkpoint": "sha256:..",
                 "recipe": "image_classifier", "seed": 0, "code_version": "0.1.0"}}

What is run is one of three, and a package may hold more than one of them; nothing is ever pickled:

- `weights.safetensors`, the module's state dict, with `architecture`, the recipe that it belongs to;
- `model.onnx`, self-contained (no external data): needs no export;
- `model.pt2`, an exported program (`torch.export`).

`golden.safetensors` holds inputs and the outputs that the model itself gave, under the signature's names, and their
true labels as `y` where they are known (`y.label` where the signature has a `y` of its own); 16 samples or more, unless
fewer were held out. Engines lie beside as `engines/<engine key>/model.plan` or `engines/<engine key>/model.pt2`.

Of `lineage` the registry understands: `job`, `dataset`, `datasets` (further digests), `checkpoint`, `recipe`, `code`
(digest of the bundle), `parent` (the version that this one was made of), `teacher` (the version it was distilled from),
`initial_model` (digest of the package it was trained on from), `optimization`, `source` (what was imported).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from lepton.artifacts import parse_digest
from lepton.errors import InvalidArgument
from lepton.models.architecture import Architecture

FORMAT: Final = "lepton.model/1"
WEIGHTS: Final = "weights.safetensors"
ONNX: Final = "model.onnx"
PT2: Final = "model.pt2"
GOLDEN: Final = "golden.safetensors"
FACTS: Final = "facts.json"
ENGINES: Final = "engines/"
LABELS: Final = "y"

MOST_FILES: Final = 1024
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}){0,5}")

LineageValue = str | int | tuple[str, ...]


class Form(StrEnum):
    """In which of its files a package is run."""

    WEIGHTS = WEIGHTS
    ONNX = ONNX
    PT2 = PT2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output as the Open Inference Protocol describes it; -1 is the batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The tensor that a JSON object describes."""
        return cls(name=document["name"], datatype=document["datatype"], shape=tuple(document["shape"]))

    def to_json(self) -> dict[str, Any]:
        """The tensor as a JSON object."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model takes and what it gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def labels(self) -> str:
        """The name under which golden samples carry their true labels."""
        return LABELS if all(tensor.name != LABELS for tensor in self.inputs + self.outputs) else f"{LABELS}.label"

    def to_json(self) -> dict[str, Any]:
        """As it stands in documents."""
        return {
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """From a document that is well formed."""
        return cls(
            inputs=tuple(map(Tensor.from_json, document["inputs"])),
            outputs=tuple(map(Tensor.from_json, document["outputs"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPackage:
    """A model: its recipe if it has one, files by digest, signature, what it measured and where it comes from."""

    architecture: Architecture | None = None
    files: Mapping[str, str]
    signature: Signature
    metrics: Mapping[str, float]
    lineage: Mapping[str, LineageValue]

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms it can be run in, ONNX first: that one needs no export."""
        return tuple(form for form in (Form.ONNX, Form.WEIGHTS, Form.PT2) if form in self.files)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The package that a manifest's bytes hold; InvalidArgument when they hold none."""
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
            signature, architecture = document["signature"], document.get("architecture")
            return cls(
                architecture=None if architecture is None else Architecture.from_json(architecture),
                files=_files(document["files"]),
                signature=Signature(
                    inputs=tuple(map(Tensor.from_json, signature["inputs"])),
                    outputs=tuple(map(Tensor.from_json, signature["outputs"])),
                ),
                metrics={str(name): float(value) for name, value in document["metrics"].items()},
                lineage={str(name): _lineage_value(value) for name, value in document["lineage"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidArgument("MODEL_PACKAGE_INVALID", problem=str(error)) from error

    def render(self) -> bytes:
        """The manifest's bytes; equal packages give equal bytes, hence equal digests."""
        document = {
            "format": FORMAT,
            "files": dict(self.files),
            "signature": {
                "inputs": [tensor.to_json() for tensor in self.signature.inputs],
                "outputs": [tensor.to_json() for tensor in self.signature.outputs],
            },
            "metrics": dict(self.metrics),
            "lineage": dict(self.lineage),
        }
        if self.architecture is not None:
            document["architecture"] = self.architecture.to_json()
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _files(given: Mapping[str, str]) -> dict[str, str]:
    """The files by name: plain relative paths that stay inside the folder they are unpacked in."""
    if len(given) > MOST_FILES:
        raise ValueError(f"it names {len(given)} files, {MOST_FILES} at the most are allowed")
    for name in given:
        if not isinstance(name, str) or _FILE.fullmatch(name) is None:
            raise ValueError(f"the file name {str(name)[:80]!r} is not a plain relative path")
    return {name: parse_digest(digest, f"files.{name}") for name, digest in given.items()}


def _lineage_value(value: Any) -> LineageValue:
    return tuple(map(str, value)) if isinstance(value, list) else value
