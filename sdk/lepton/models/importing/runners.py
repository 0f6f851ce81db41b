"""The three forms of a model, run: what each takes and gives, and its answers. Used in the proving process alone."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from lepton.errors import InvalidArgument
from lepton.models.architecture import Architecture
from lepton.models.importing.golden_samples import DTYPES, Arrays
from lepton.models.package import Signature, Tensor

_ORT_DATATYPES: Final[Mapping[str, str]] = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
}  # fmt: skip
_OPSET: Final = 20


class Runner(Protocol):
    """A model that can be asked."""

    signature: Signature
    below: Mapping[str, int]
    """What whole numbers stay below, for inputs where that is known."""

    def run(self, inputs: Arrays) -> Arrays:
        """The answers, by output."""
        ...


class OnnxRunner:
    """An ONNX file in ONNX Runtime, after ONNX's own checker and strict shape inference."""

    def __init__(self, path: Path) -> None:
        import onnx  # this process alone needs it
        import onnxruntime

        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.signature = Signature(
            inputs=tuple(map(_of_session, self._session.get_inputs())),
            outputs=tuple(map(_of_session, self._session.get_outputs())),
        )
        self.below: Mapping[str, int] = {}

    def run(self, inputs: Arrays) -> Arrays:
        """The answers, by output."""
        names = [tensor.name for tensor in self.signature.outputs]
        return dict(zip(names, self._session.run(names, inputs), strict=True))


class TorchRunner:
    """A torch module whose inputs are positional."""

    below: Mapping[str, int]

    def __init__(self, module: Any, signature: Signature, below: Mapping[str, int] | None = None) -> None:
        self._module, self.signature, self.below = module, signature, below or {}

    def run(self, inputs: Arrays) -> Arrays:
        """The answers, by output."""
        import torch
        from torch.utils import _pytree

        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[tensor.name])) for tensor in self.signature.inputs]
        with torch.inference_mode():
            answers = _pytree.tree_leaves(self._module(*tensors))
        arrays = [np.ascontiguousarray(answer.detach().numpy()) for answer in answers]
        return {tensor.name: array for tensor, array in zip(self.signature.outputs, arrays, strict=True)}


def recipe_runner(path: Path, architecture: Architecture, wanted: Signature | None) -> TorchRunner:
    """The module of an architecture with the weights of a safetensors file."""
    from safetensors.torch import load_file

    from lepton import models

    module = models.build(architecture)
    module.load_state_dict(load_file(path))
    signature, below = recipe_signature(architecture)
    return TorchRunner(module.eval(), wanted or signature, below)


def recipe_signature(architecture: Architecture) -> tuple[Signature, Mapping[str, int]]:
    """What an architecture takes and gives, and what its whole numbers stay below."""
    config: Any = architecture.resolve()
    shape: tuple[int, ...]
    datatype, below, output = "FP32", 0, "logits"
    match architecture.name:
        case "image_classifier":
            shape = (config.channels, config.height, config.width)
        case "text_classifier":
            shape, datatype, below = (config.length,), "INT64", config.vocabulary
        case "language_model":
            shape, datatype, below = (config.context,), "INT64", config.vocabulary
        case "forecaster":
            shape, output = (config.window, config.series), "forecast"
        case "recommender":
            shape, datatype, below, output = (2,), "INT64", min(config.users, config.items), "rating"
        case _:
            shape = (len(config.columns),)
    signature = Signature(
        inputs=(Tensor(name="x", datatype=datatype, shape=(-1, *shape)),),
        outputs=(Tensor(name=output, datatype="FP32", shape=()),),  # its shape is measured
    )
    return signature, {"x": below} if below else {}


class ProgramRunner:
    """An exported program (.pt2) that was cleaned before."""

    def __init__(self, path: Path) -> None:
        import torch

        program = torch.export.load(str(path))
        given = program.graph_signature.user_inputs
        values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
        if not all(isinstance(name, str) and isinstance(values.get(name), torch.Tensor) for name in given):
            raise InvalidArgument("MODEL_NOT_PROVED", file=path.name, problem="it takes something else than tensors")
        self._program, self._module = program, program.module()
        self.signature = Signature(
            inputs=tuple(_of_fake(str(name), values[name]) for name in given),
            outputs=tuple(Tensor(name=name, datatype="FP32", shape=()) for name in self._output_names()),
        )
        self.below: Mapping[str, int] = {}

    def run(self, inputs: Arrays) -> Arrays:
        """The answers, by output."""
        import torch
        from torch.utils import _pytree

        leaves = [torch.from_numpy(np.ascontiguousarray(inputs[tensor.name])) for tensor in self.signature.inputs]
        arguments, keywords = _pytree.tree_unflatten(leaves, self._program.call_spec.in_spec)
        with torch.inference_mode():
            answers = _pytree.tree_leaves(self._module(*arguments, **keywords))
        arrays = [np.ascontiguousarray(answer.detach().numpy()) for answer in answers]
        return {tensor.name: array for tensor, array in zip(self.signature.outputs, arrays, strict=True)}

    def _output_names(self) -> list[str]:
        spec = self._program.call_spec.out_spec
        count = len(self._program.graph_signature.user_outputs)
        if getattr(spec, "type", None) is dict and all(isinstance(key, str) for key in spec.context):
            return list(spec.context)
        return ["output"] if count == 1 else [f"output_{at}" for at in range(count)]


def from_code(code: str, weights: Path, inputs: Sequence[Tensor], samples: Arrays, onnx: Path) -> TorchRunner:
    """The module that `FILE.py:FUNCTION` builds, with the weights of a safetensors file; writes its ONNX file too."""
    import torch
    from safetensors.torch import load_file

    file, _, function = code.rpartition(":")
    spec = importlib.util.spec_from_file_location("imported_model", file)
    if spec is None or spec.loader is None:
        raise InvalidArgument("INVALID_FIELD", fields={"code": f"{file} is no Python file"})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = getattr(module, function)()
    model.load_state_dict(load_file(weights))
    model.eval()
    answers = model(*(torch.from_numpy(samples[tensor.name]) for tensor in inputs))
    names = list(answers) if isinstance(answers, dict) else ["output"]
    if isinstance(answers, tuple | list):
        names = [f"output_{at}" for at in range(len(answers))]
    signature = Signature(
        inputs=tuple(inputs), outputs=tuple(Tensor(name=name, datatype="FP32", shape=()) for name in names)
    )
    _export(model, inputs, samples, names, onnx)
    return TorchRunner(model, signature)


def _export(model: Any, inputs: Sequence[Tensor], samples: Arrays, names: list[str], onnx: Path) -> None:
    import torch

    batch = torch.export.Dim("batch", min=1)
    shapes = tuple(
        {at: batch if at == 0 else torch.export.Dim.DYNAMIC for at, size in enumerate(tensor.shape) if size == -1}
        for tensor in inputs
    )
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            tuple(torch.from_numpy(np.ascontiguousarray(samples[tensor.name])) for tensor in inputs),
            input_names=[tensor.name for tensor in inputs],
            output_names=names,
            dynamic_shapes=shapes,
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise InvalidArgument("MODEL_NOT_PROVED", file=onnx.name, problem="the exporter to ONNX returned nothing")
    onnx.write_bytes(program.model_proto.SerializeToString())


def measured(signature: Signature, inputs: Arrays, outputs: Arrays) -> Signature:
    """The signature with its outputs as they are: rows are free where every input's first dimension is."""
    is_batched = all(tensor.shape[:1] == (-1,) for tensor in signature.inputs)
    rows = len(next(iter(inputs.values()))) if is_batched else -1

    def seen(tensor: Tensor) -> Tensor:
        array = outputs[tensor.name]
        if tensor.shape:
            return tensor
        datatype = next((name for name, dtype in DTYPES.items() if dtype == array.dtype), str(array.dtype))
        free = is_batched and array.shape[:1] == (rows,)
        return Tensor(name=tensor.name, datatype=datatype, shape=(-1, *array.shape[1:]) if free else array.shape)

    return Signature(inputs=signature.inputs, outputs=tuple(map(seen, signature.outputs)))


def _of_session(argument: Any) -> Tensor:
    datatype = _ORT_DATATYPES.get(argument.type)
    if datatype is None:
        problem = f"{argument.name} is {argument.type}, which cannot be served; numbers and truth values can"
        raise InvalidArgument("MODEL_NOT_PROVED", file="model.onnx", problem=problem)
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape)
    return Tensor(name=argument.name, datatype=datatype, shape=shape)


def _of_fake(name: str, value: Any) -> Tensor:
    import torch

    datatype = {
        torch.bool: "BOOL", torch.uint8: "UINT8", torch.int8: "INT8", torch.int16: "INT16", torch.int32: "INT32",
        torch.int64: "INT64", torch.float16: "FP16", torch.float32: "FP32", torch.float64: "FP64",
    }.get(value.dtype)  # fmt: skip
    if datatype is None:
        raise InvalidArgument(
            "MODEL_NOT_PROVED", file="model.pt2", problem=f"{name} is {value.dtype}, which cannot be served"
        )
    return Tensor(
        name=name, datatype=datatype, shape=tuple(size if isinstance(size, int) else -1 for size in value.shape)
    )
