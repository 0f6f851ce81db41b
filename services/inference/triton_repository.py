"""Owns the Triton repository of one model: its configuration, the program that runs it and its ONNX file, all ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lepton.errors import InvalidArgument
from lepton.golden import DATATYPES
from lepton.models import Signature, Tensor

CONFIG: Final = "config.pbtxt"
_VERSION: Final = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How a model is run on a node; none of it changes what it answers."""

    max_batch: int = 32
    max_queue_delay_us: int = 500
    instances: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.max_batch, self.instances, self.threads) < 1 or self.max_queue_delay_us < 0:
            raise InvalidArgument("INVALID_FIELD", fields={"options": "sizes are 1 or more, delays 0 or more"})


def render(model: str, onnx: bytes, signature: Signature, options: ServingOptions | None = None) -> dict[str, bytes]:
    """The repository's files by path below the model's own folder, the one that carries `model` as its name."""
    program = resources.files(__package__).joinpath("triton_model.py").read_bytes()
    return {
        CONFIG: render_config(model, signature, options or ServingOptions()).encode(),
        f"{_VERSION}/model.py": program,
        f"{_VERSION}/model.onnx": onnx,
    }


def render_config(model: str, signature: Signature, options: ServingOptions) -> str:
    """The configuration's text. Where every tensor's first dimension is free, Triton joins requests into batches."""
    tensors = (*signature.inputs, *signature.outputs)
    if not signature.inputs or not signature.outputs:
        raise _invalid("signature", "needs an input and an output")
    batched = all(tensor.shape[:1] == (-1,) for tensor in tensors)
    config = model_config_pb2.ModelConfig(
        name=model, backend="python", max_batch_size=options.max_batch if batched else 0
    )
    config.version_policy.specific.versions.append(int(_VERSION))
    for target, described in ((config.input, signature.inputs), (config.output, signature.outputs)):
        for tensor in described:
            _add(target, tensor, tensor.shape[1:] if batched else tensor.shape)
    if batched and options.max_batch > 1:
        config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us
    if options.instances > 1:
        config.instance_group.add(count=options.instances, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    config.parameters["threads"].string_value = str(options.threads)
    text: str = text_format.MessageToString(config)
    return text


def _add(target: Any, tensor: Tensor, dims: Sequence[int]) -> None:
    if tensor.datatype not in DATATYPES:
        raise _invalid(f"signature.{tensor.name}", f"has the unknown datatype {tensor.datatype}")
    added = target.add(
        name=tensor.name,
        data_type=model_config_pb2.DataType.Value(f"TYPE_{tensor.datatype}"),
        dims=list(dims) or [1],
    )
    if not dims:  # one scalar per row: Triton wants a dimension, the model has none
        added.reshape.SetInParent()


def _invalid(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={field: problem})
