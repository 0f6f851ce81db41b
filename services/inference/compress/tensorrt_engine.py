"""TensorRT: an engine built from an ONNX file for the GPU of the machine that builds it, with its timing cache.

Networks are strongly typed: precision is what the ONNX file says. So FP16 is a file converted to FP16, and INT8 one
with quantise and dequantise nodes (explicit quantisation, symmetric, as TensorRT reads them). TensorRT 10's Python API;
its libraries come from NVIDIA, not from PyPI, and where they are missing every call refuses with ENGINE_UNAVAILABLE.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, cast

import onnx
import torch
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from lepton.errors import FailedPrecondition
from lepton.golden import Array
from services.inference.compress import onnx_files
from services.inference.compress.engines import EngineKey, Shape
from services.inference.compress.judging import Run
from services.inference.compress.samples import Part
from services.inference.compress.variants import EngineKind, Precision

_WORKSPACE_BYTES: Final = 1 << 30
_QUANTISED: Final = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A serialised engine, and the timings of kernels that its build has measured, which make the next build fast."""

    plan: bytes
    timing_cache: bytes


def library() -> ModuleType:
    """TensorRT's module; FailedPrecondition (ENGINE_UNAVAILABLE) where it, or the libraries that it loads, are not."""
    try:
        import tensorrt  # only nodes with a GPU have it
    except (ImportError, OSError) as error:  # OSError: the bindings are there, libnvinfer is not
        raise _unavailable(f"its Python package cannot be loaded here ({error})") from error
    if not hasattr(tensorrt, "Builder"):  # type stubs alone make an empty package of the name
        raise _unavailable("its Python package is not installed here; install tensorrt from NVIDIA")
    found: ModuleType = tensorrt
    return found


def version() -> str:
    """The version of the library: an engine runs with no other."""
    return str(library().__version__)


def key(model: str, shapes: Sequence[Shape], precision: Precision, device: str) -> EngineKey:
    """What names the engine of the model of that digest on this machine."""
    return EngineKey.of(
        EngineKind.TENSORRT, version=version(), device=device, precision=precision, model=model, shapes=shapes
    )


def typed(model: bytes, precision: Precision, calibration: Part) -> bytes:
    """The ONNX file whose types say the precision, for a strongly typed network; inputs and outputs stay FP32."""
    if precision is Precision.FP32:
        return model
    if precision is Precision.FP16:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        converted = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True)
        return bytes(converted.SerializeToString())
    if precision is not Precision.INT8_STATIC:
        raise _unavailable(f"{precision} is not built for it")
    return onnx_files.rewritten(
        onnx_files.prepared(model),
        lambda source, target: quantize_static(
            str(source), str(target), onnx_files.Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=list(_QUANTISED),
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        ),
    )  # fmt: skip


def build(
    model: bytes,
    shapes: Sequence[Shape],
    *,
    timing_cache: bytes = b"",
    workspace_bytes: int = _WORKSPACE_BYTES,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Built:
    """Builds an engine with one optimisation profile of those shapes.

    FailedPrecondition: ENGINE_UNAVAILABLE without the library, ENGINE_BUILD_FAILED with TensorRT's own words.
    """
    library()
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = "; ".join(str(parser.get_error(at)) for at in range(parser.num_errors))
        raise FailedPrecondition("ENGINE_BUILD_FAILED", engine="TensorRT", problem=errors or "the file was not read")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    profile = builder.create_optimization_profile()
    for shape in shapes:
        least, usual, most = (trt.Dims(list(each)) for each in (shape.least, shape.usual, shape.most))
        profile.set_shape(shape.input, least, usual, most)
    if config.add_optimization_profile(profile) < 0:
        problem = f"the shapes {', '.join(map(str, shapes))} are no profile of this model"
        raise FailedPrecondition("ENGINE_BUILD_FAILED", engine="TensorRT", problem=problem)
    cache = config.create_timing_cache(timing_cache)
    config.set_timing_cache(cache, ignore_mismatch=False)
    if is_stopped():
        raise FailedPrecondition("ENGINE_BUILD_FAILED", engine="TensorRT", problem="it was asked to stop")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        problem = "no engine could be built; its log on standard error says why"
        raise FailedPrecondition("ENGINE_BUILD_FAILED", engine="TensorRT", problem=problem)
    measured = config.get_timing_cache()
    return Built(plan=bytes(cast("Any", plan)), timing_cache=bytes(cast("Any", measured.serialize())))


def runner(plan: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> Run:
    """An engine as a function, over torch's GPU memory and stream. One execution context: one call at a time."""
    library()
    import tensorrt as trt

    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan)
    if engine is None:
        raise FailedPrecondition("ENGINE_BUILD_FAILED", engine="TensorRT", problem="the engine cannot be loaded here")
    context = engine.create_execution_context()

    def run(given: Mapping[str, Array]) -> Sequence[Array]:
        stream = torch.cuda.current_stream()
        taken = {name: torch.from_numpy(given[name]).contiguous().cuda(non_blocking=True) for name in inputs}
        for name, tensor in taken.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                problem = f"the shape {tuple(tensor.shape)} of {name} is outside its profile"
                raise FailedPrecondition("ENGINE_BUILD_FAILED", engine="TensorRT", problem=problem)
            context.set_tensor_address(name, tensor.data_ptr())
        made = [torch.empty(_sizes(context.get_tensor_shape(name)), device="cuda") for name in outputs]
        for name, tensor in zip(outputs, made, strict=True):
            context.set_tensor_address(name, tensor.data_ptr())
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return [tensor.cpu().numpy() for tensor in made]

    return run


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(map(int, shape))


def _unavailable(problem: str) -> FailedPrecondition:
    return FailedPrecondition("ENGINE_UNAVAILABLE", engine="TensorRT", problem=problem)
