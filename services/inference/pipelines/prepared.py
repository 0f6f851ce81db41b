"""What the preparation of a pipeline leaves: a manifest of its steps' ONNX files, wiring and golden requests.

{"format": "lepton.pipeline/1",
 "signature": {"inputs": [..], "outputs": [..]}, "golden": "sha256:..",
 "steps": [{"name": "scale", "onnx": "sha256:..", "golden": "sha256:..", "package": "sha256:.." or "",
            "signature": {..}, "inputs": {"x": "pixels"}, "outputs": {"y": "scaled"}}, ..]}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from lepton.artifacts import parse_digest
from lepton.errors import InvalidArgument
from lepton.models import Signature

FORMAT: Final = "lepton.pipeline/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedStep:
    """A step that can be served. `inputs` and `outputs`: its own names -> the pipeline's tensors."""

    name: str
    onnx: str
    golden: str
    package: str = ""
    signature: Signature
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A pipeline that can be served."""

    signature: Signature
    golden: str
    steps: tuple[PreparedStep, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The manifest that bytes hold. Raises InvalidArgument."""
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
            return cls(
                signature=Signature.from_json(document["signature"]),
                golden=parse_digest(document["golden"]),
                steps=tuple(
                    PreparedStep(
                        name=step["name"],
                        onnx=parse_digest(step["onnx"]),
                        golden=parse_digest(step["golden"]),
                        package=step["package"],
                        signature=Signature.from_json(step["signature"]),
                        inputs=step["inputs"],
                        outputs=step["outputs"],
                    )
                    for step in document["steps"]
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument("PIPELINE_INVALID", problem=str(error)) from error

    def render(self) -> bytes:
        """The manifest's bytes; equal ones give equal bytes."""
        steps = [
            {
                "name": step.name,
                "onnx": step.onnx,
                "golden": step.golden,
                "package": step.package,
                "signature": step.signature.to_json(),
                "inputs": dict(step.inputs),
                "outputs": dict(step.outputs),
            }
            for step in self.steps
        ]
        document = {"format": FORMAT, "signature": self.signature.to_json(), "golden": self.golden, "steps": steps}
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
