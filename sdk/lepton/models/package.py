"""The model package: one JSON manifest, itself an artifact, that names all it takes to serve and explain a model.

    {"format": "lepton.model/1",
     "architecture": {"name": "image_classifier", "config": {"channels": 1, "height": 8, "width": 8, ...}},
     "files": {"weights.safetensors": "sha256:..", "golden.safetensors": "sha256:.."},
     "signature": {"inputs":  [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
                   "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]},
     "metrics": {"accuracy": 0.98, "loss": 0.05},
     "lineage": {"job": "projects/p/jobs/j", "dataset": "sha256:..", "checkpoint": "sha256:..",
                 "recipe": "image_classifier", "seed": 0, "code_version": "0.1.0"}}

`weights.safetensors` is the module's state dict. `golden.safetensors` holds held-out inputs and the checkpoint's own
outputs under the signature's names (`x`, `logits`), and their true labels as `y`;
16 samples or more, unless fewer were held out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from lepton.artifacts import parse_digest
from lepton.errors import InvalidArgument
from lepton.models.architecture import Architecture

FORMAT: Final = "lepton.model/1"
WEIGHTS: Final = "weights.safetensors"
GOLDEN: Final = "golden.safetensors"
FACTS: Final = "facts.json"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPackage:
    """A trained model: architecture, files by digest, signature, what it measured and where it comes from."""

    architecture: Architecture
    files: Mapping[str, str]
    signature: Signature
    metrics: Mapping[str, float]
    lineage: Mapping[str, str | int]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The package that a manifest's bytes hold; InvalidArgument when they hold none."""
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
            signature = document["signature"]
            return cls(
                architecture=Architecture.from_json(document["architecture"]),
                files={str(name): parse_digest(digest, f"files.{name}") for name, digest in document["files"].items()},
                signature=Signature(
                    inputs=tuple(map(Tensor.from_json, signature["inputs"])),
                    outputs=tuple(map(Tensor.from_json, signature["outputs"])),
                ),
                metrics={str(name): float(value) for name, value in document["metrics"].items()},
                lineage=dict(document["lineage"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidArgument("MODEL_PACKAGE_INVALID", problem=str(error)) from error

    def render(self) -> bytes:
        """The manifest's bytes; equal packages give equal bytes, hence equal digests."""
        document = {
            "format": FORMAT,
            "architecture": self.architecture.to_json(),
            "files": dict(self.files),
            "signature": {
                "inputs": [tensor.to_json() for tensor in self.signature.inputs],
                "outputs": [tensor.to_json() for tensor in self.signature.outputs],
            },
            "metrics": dict(self.metrics),
            "lineage": dict(self.lineage),
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
