"""Brings the pipeline of a deployment that is created or changed into the form that is kept: explicit and checked."""

from typing import Final

from lepton.errors import InvalidArgument
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.inference.v1.pipeline_pb2 import Pipeline
from lepton.models import Signature, Tensor
from lepton.names import VersionName
from services.inference.pipelines.layout import FIELD, Layout
from services.inference.registry import Registry

OWN: Final = ""
"""How an explicit pipeline names the deployment's own version."""
MOST_BYTES: Final = 256 << 10
"""Of a pipeline: it stands in a deployment, its revision and the record of a request, in one transaction."""


async def resolve(registry: Registry, pipeline: Pipeline, own: str) -> Pipeline:
    """The pipeline of a deployment of the version `own`, with the number of every other version, every tensor's name.

    A step of the deployment's own version names none, so that it goes with the deployment.
    Raises InvalidArgument naming the step and the tensor, NotFound (a version).
    """
    if pipeline.ByteSize() > MOST_BYTES:
        problem = f"is {pipeline.ByteSize()} bytes; {MOST_BYTES} at the most"
        raise InvalidArgument("INVALID_FIELD", fields={FIELD: problem})
    told, signatures = Pipeline(), dict[str, Signature]()
    told.CopyFrom(pipeline)
    for number, step in enumerate(told.steps):
        if step.WhichOneof("kind") == "model":
            version = await _version(registry, step.model.model_version or own, own, number)
            step.model.model_version = version.name if step.model.model_version else OWN
            signatures[step.model.model_version] = signature_of(version)
    if not signatures:
        raise InvalidArgument("INVALID_FIELD", fields={f"{FIELD}.steps": "must hold a model"})
    return Layout.of(told, signatures).explicit(told)


def signature_of(version: ModelVersion) -> Signature:
    """What a version takes and gives."""
    inputs = tuple(Tensor(name=t.name, datatype=t.datatype, shape=tuple(t.shape)) for t in version.inputs)
    outputs = tuple(Tensor(name=t.name, datatype=t.datatype, shape=tuple(t.shape)) for t in version.outputs)
    return Signature(inputs=inputs, outputs=outputs)


def versions_of(pipeline: Pipeline) -> tuple[str, ...]:
    """The versions that an explicit pipeline runs, each once; empty = the deployment's own."""
    return tuple(
        dict.fromkeys(step.model.model_version for step in pipeline.steps if step.WhichOneof("kind") == "model")
    )


async def _version(registry: Registry, text: str, own: str, number: int) -> ModelVersion:
    field = f"{FIELD}.steps[{number}].model.model_version"
    name = VersionName.parse(text, field)
    if name.project != VersionName.parse(own).project:
        raise InvalidArgument("INVALID_FIELD", fields={field: "must be a version of the deployment's own project"})
    version = await registry.get_version(text)
    for tensor in (*version.inputs, *version.outputs):
        if list(tensor.shape[:1]) != [-1] or len(tensor.shape) < 2:
            problem = f"its tensor {tensor.name} has the shape {list(tensor.shape)}; in a pipeline the first dimension "
            raise InvalidArgument("INVALID_FIELD", fields={field: f"{problem}of every tensor is the batch"})
    return version
