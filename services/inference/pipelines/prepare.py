"""The preparation program of a pipeline: its models' ONNX files proven, its steps' made, golden requests computed.

Run by an agent as `python -m services.inference.pipelines.prepare` with LEPTON_SPEC naming a JSON file
`{"project": .., "pipeline": "sha256:..", "packages": {"<version>": "sha256:..", ..}}`, where `pipeline` is an explicit
Pipeline message, and versions are named as it names them; it reports one artifact named `onnx`, its manifest.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from google.protobuf.message import DecodeError
from safetensors.numpy import load, save

from lepton.artifacts import ArtifactStore, parse_digest
from lepton.errors import InvalidArgument
from lepton.golden import TOLERANCES, pack_texts, tolerances
from lepton.inference.v1.pipeline_pb2 import Pipeline
from lepton.models import ModelPackage
from lepton.models.package import GOLDEN, ONNX
from lepton.tracing import span
from lepton.train import session
from lepton.train.traced import traced
from services.inference.compress.export_onnx import ExportSpec, export
from services.inference.pipelines.layout import Layout
from services.inference.pipelines.prepared import Prepared, PreparedStep
from services.inference.pipelines.run import golden_inputs, run
from services.inference.pipelines.steps import Array

ARTIFACT: Final = "onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSpec:
    """Which pipeline of which project, over which packages by their versions' names."""

    project: str
    pipeline: str
    packages: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The spec that a JSON object holds; InvalidArgument when it holds none."""
        try:
            document = json.loads(data)
            packages = {str(name): parse_digest(digest) for name, digest in document["packages"].items()}
            return cls(project=str(document["project"]), pipeline=parse_digest(document["pipeline"]), packages=packages)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument("INVALID_FIELD", fields={"spec": str(error)}) from error


def prepare(store: ArtifactStore, spec: PrepareSpec) -> str:
    """Stores the prepared pipeline; its manifest's digest."""
    pipeline = Pipeline()
    try:
        pipeline.ParseFromString(store.read(spec.project, spec.pipeline))
    except DecodeError as error:
        raise InvalidArgument("PIPELINE_INVALID", problem=str(error)) from error
    packages = {name: ModelPackage.parse(store.read(spec.project, digest)) for name, digest in spec.packages.items()}
    layout = Layout.of(pipeline, {name: package.signature for name, package in packages.items()})
    with span("pipeline.models"):
        models = {name: _onnx(store, spec, name, package) for name, package in packages.items()}
    graphs, digests = dict[str, bytes](), dict[str, str]()
    for step in layout.steps:
        if step.step is None:
            digests[step.name] = models[step.model_version]
            graphs[step.name] = store.read(spec.project, digests[step.name])
        else:
            graphs[step.name] = step.step.graph(step.given)
            digests[step.name] = store.put_bytes(spec.project, graphs[step.name])
    with span("pipeline.golden"):
        golden = {name: store.read(spec.project, each.files[GOLDEN]) for name, each in packages.items()}
        tensors = run(layout, graphs, golden_inputs(layout, {name: load(data) for name, data in golden.items()}))
    allowed = {name: tolerances(data) for name, data in golden.items()}
    return store.put_bytes(spec.project, _manifest(store, spec, layout, digests, tensors, allowed).render())


def _onnx(store: ArtifactStore, spec: PrepareSpec, name: str, package: ModelPackage) -> str:
    if ONNX in package.files:
        return package.files[ONNX]
    return export(store, ExportSpec(project=spec.project, package=spec.packages[name]))


def _manifest(
    store: ArtifactStore,
    spec: PrepareSpec,
    layout: Layout,
    digests: Mapping[str, str],
    tensors: Mapping[str, Array],
    allowed: Mapping[str, Mapping[str, float]],
) -> Prepared:
    def golden(names: Mapping[str, str], off: Mapping[str, float]) -> str:
        return store.put_bytes(spec.project, _golden({own: tensors[name] for own, name in names.items()}, off))

    steps = tuple(
        PreparedStep(
            name=step.name,
            onnx=digests[step.name],
            golden=golden({**step.inputs, **step.outputs}, allowed[step.model_version] if step.step is None else {}),
            package=spec.packages[step.model_version] if step.step is None else "",
            signature=step.signature,
            inputs=step.inputs,
            outputs=step.outputs,
        )
        for step in layout.steps
    )
    answered = {tensor.name: tensor.name for tensor in (*layout.inputs, *layout.outputs)}
    # What one of its models may be off by, the whole may be too.
    kinds = {kind for each in allowed.values() for kind in each}
    off = {kind: max(each.get(kind, 0.0) for each in allowed.values()) for kind in sorted(kinds)}
    return Prepared(signature=layout.signature, golden=golden(answered, off), steps=steps)


def _golden(tensors: Mapping[str, Array], off: Mapping[str, float]) -> bytes:
    metadata = {TOLERANCES: json.dumps(dict(off), sort_keys=True)} if off else None
    packed = {name: pack_texts(array) if array.dtype == object else array for name, array in tensors.items()}
    return bytes(save({name: np.ascontiguousarray(array) for name, array in packed.items()}, metadata=metadata))


def main() -> int:
    """Prepares one pipeline."""
    rank = session()
    spec = PrepareSpec.parse(rank.environment.read_spec())
    with traced(rank.environment, "prepare-pipeline", "pipeline.prepare") as whole:
        digest = prepare(rank.store, spec)
        whole.set("lepton.pipeline", digest)
    rank.reporter.artifact(ARTIFACT, digest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
