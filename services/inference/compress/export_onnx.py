"""The export program: makes the ONNX file of a model package, proves it with the golden samples, stores it.

A package that holds an ONNX file already is proven as it is.
Run by an agent as `python -m services.inference.compress.export_onnx` with LEPTON_SPEC naming a JSON file
`{"project": .., "package": "sha256:.."}`; it reports one artifact named `onnx`.
"""

import io
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import onnxruntime
import safetensors.torch
import torch
from safetensors.numpy import load

from lepton import models
from lepton.artifacts import ArtifactStore, parse_digest
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.golden import tolerances
from lepton.models import ModelPackage
from lepton.models.package import GOLDEN, ONNX, PT2, WEIGHTS
from lepton.tracing import span
from lepton.train import session
from lepton.train.traced import traced

ARTIFACT: Final = "onnx"
OPSET: Final = 20
_TOLERANCE: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """Which package of which project is exported."""

    project: str
    package: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The spec that a JSON object holds; InvalidArgument when it holds none."""
        try:
            document = json.loads(data)
            return cls(project=str(document["project"]), package=parse_digest(document["package"], "package"))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument("INVALID_FIELD", fields={"spec": str(error)}) from error


def export(store: ArtifactStore, spec: ExportSpec) -> str:
    """Stores the proven ONNX file of the package; its digest."""
    package = ModelPackage.parse(store.read(spec.project, spec.package))
    golden = store.read(spec.project, package.files[GOLDEN])
    if ONNX in package.files:
        with span("export.prove"):
            prove(store.read(spec.project, package.files[ONNX]), package, golden)
        return package.files[ONNX]
    with span("export.convert"):
        source = PT2 if WEIGHTS not in package.files and PT2 in package.files else WEIGHTS
        onnx = convert(package, store.read(spec.project, package.files[source]), golden)
    with span("export.prove"):
        prove(onnx, package, golden)
    return store.put_bytes(spec.project, onnx)


def convert(package: ModelPackage, weights: bytes, golden: bytes) -> bytes:
    """The package's module as one self-contained ONNX file; dimensions that are free in the signature stay free.

    `weights` are the bytes of `weights.safetensors`, or of `model.pt2` where the package has no recipe.
    """
    samples = safetensors.torch.load(golden)
    if package.architecture is None or (WEIGHTS not in package.files and PT2 in package.files):
        return to_onnx(torch.export.load(io.BytesIO(weights)), package, samples)
    module = models.build(package.architecture)
    module.load_state_dict(safetensors.torch.load(weights))
    return to_onnx(module.eval(), package, samples)


def to_onnx(module: torch.nn.Module | Any, package: ModelPackage, samples: Mapping[str, torch.Tensor]) -> bytes:
    """A module, or an exported program, as an ONNX file with the package's signature; `samples` are traced with."""
    signature = package.signature
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} if tensor.shape[:1] == (-1,) else {} for tensor in signature.inputs)
    is_traced = isinstance(module, torch.export.ExportedProgram)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        program = torch.onnx.export(
            module,
            () if is_traced else tuple(samples[tensor.name][:2].contiguous() for tensor in signature.inputs),
            input_names=[tensor.name for tensor in signature.inputs],
            output_names=[tensor.name for tensor in signature.outputs],
            dynamic_shapes=None if is_traced else shapes,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise FailedPrecondition("EXPORT_FAILED", problem="the exporter returned nothing")
    model = program.model_proto
    for node in model.graph.node:  # the exporter's stack traces: a fifth of a small model's bytes
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return bytes(model.SerializeToString())


def prove(onnx: bytes, package: ModelPackage, golden: bytes) -> None:
    """Runs the golden inputs, together and one alone; FailedPrecondition when an answer is not the checkpoint's."""
    samples = load(golden)
    runtime = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in package.signature.outputs]
    allowed = tolerances(golden).get("absolute", 0.0)
    for rows in (slice(None), slice(0, 1)):
        answers = runtime.run(names, {tensor.name: samples[tensor.name][rows] for tensor in package.signature.inputs})
        for name, answer in zip(names, answers, strict=True):
            expected = samples[name][rows]
            error = float(np.max(np.abs(answer - expected))) if answer.shape == expected.shape else float("inf")
            limit = max(_TOLERANCE * max(1.0, float(np.max(np.abs(expected)))), allowed)
            if not error <= limit:
                raise FailedPrecondition("EXPORT_MISMATCH", output=name, error=f"{error:.3g}", limit=f"{limit:.3g}")


def main() -> int:
    """Runs one export to its end."""
    rank = session()
    spec = ExportSpec.parse(rank.environment.read_spec())
    with traced(rank.environment, "export", "export") as whole:
        digest = export(rank.store, spec)
        whole.set("lepton.onnx", digest)
    rank.reporter.artifact(ARTIFACT, digest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
