"""What is done to ONNX files: graph optimisation, weights in half precision, INT8; and what is counted in them."""

import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.shape_inference import quant_pre_process

from lepton.errors import FailedPrecondition
from lepton.golden import Array
from services.inference.compress.judging import Run
from services.inference.compress.samples import Part
from services.inference.compress.variants import Precision

_SMALLEST: Final = 64
"""Tensors of fewer numbers are left as they are."""
_CALIBRATION_BATCH: Final = 16
_TYPES: Final = {Precision.FP16: TensorProto.FLOAT16, Precision.BF16: TensorProto.BFLOAT16}
_WEIGHTED: Final = ("Conv", "MatMul", "Gemm")


def session(model: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session as a replica of one thread runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def runner(model: bytes, outputs: Sequence[str], threads: int = 1) -> Run:
    """The model as a function."""
    opened, names = session(model, threads), list(outputs)

    def run(inputs: Mapping[str, Array]) -> Sequence[Array]:
        found: Sequence[Array] = opened.run(names, dict(inputs))
        return found

    return run


def optimised(model: bytes) -> bytes:
    """The graph with constants folded and operators fused by ONNX Runtime, to the level that suits every CPU.

    Fused operators are ONNX Runtime's own (`com.microsoft`): other runtimes may not read the file.
    """

    def write(source: Path, target: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return rewritten(model, write)


def halved(model: bytes, precision: Precision) -> bytes:
    """Weights stored in half precision, each widened to FP32 by a Cast that the runtime folds when it loads the file.

    So the file has half the size, and the answers are those of rounded weights at the speed of FP32: a CPU's arithmetic
    is no faster in FP16. Engines for GPUs compute in it.
    """
    loaded = onnx.load_from_string(model)
    for graph in _graphs(loaded.graph):
        casts, kept = [], []
        for tensor in graph.initializer:
            if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < _SMALLEST:
                kept.append(tensor)
                continue
            stored = f"{tensor.name}.{precision}"
            kept.append(_narrow(tensor, stored, precision))
            casts.append(
                helper.make_node("Cast", [stored], [tensor.name], f"widen {tensor.name}", to=TensorProto.FLOAT)
            )
        nodes = [*casts, *graph.node]
        del graph.initializer[:], graph.node[:]
        graph.initializer.extend(kept)
        graph.node.extend(nodes)
    return bytes(loaded.SerializeToString())


def quantised(model: bytes, precision: Precision, calibration: Part | None = None) -> bytes:
    """Weights in INT8, per channel and of seven bits: so that sums in 16 bits cannot overflow on CPUs without VNNI, and
    every x86 CPU gives the same answers.

    With `INT8_STATIC` activations are INT8 as well, of ranges found on the
    calibration samples; with `INT8_DYNAMIC` their ranges are found at every request.
    """

    def write(source: Path, target: Path) -> None:
        if precision is Precision.INT8_DYNAMIC:
            quantize_dynamic(
                str(source), str(target), per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm", "Gather", "Attention"],
            )  # fmt: skip
            return
        if calibration is None:
            raise FailedPrecondition("CALIBRATION_MISSING")
        quantize_static(
            str(source), str(target), Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax, op_types_to_quantize=[*_WEIGHTED, "Gather", "MaxPool", "Relu"],
        )  # fmt: skip

    return rewritten(prepared(model), write)


def prepared(model: bytes) -> bytes:
    """The file with shapes inferred and the graph cleaned up, as quantisation needs it."""
    return rewritten(model, lambda source, target: quant_pre_process(str(source), str(target)))


def count(model: bytes) -> tuple[int, int]:
    """How many numbers the weights are, and how many of them are not zero."""
    whole = nonzero = 0
    for graph in _graphs(onnx.load_from_string(model).graph):
        for tensor in graph.initializer:
            if int(np.prod(tensor.dims)) < 2:
                continue  # scales, shapes and the like are no weights
            whole += int(np.prod(tensor.dims))
            nonzero += int(np.count_nonzero(numpy_helper.to_array(tensor)))
    return whole, nonzero


def compressed(model: bytes) -> int:
    """The bytes of the file as it travels in a compressed package."""
    return len(zlib.compress(model, 6))


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Calibration samples in batches, as onnxruntime's calibrators ask for them."""

    def __init__(self, part: Part) -> None:
        self._batches = iter([part.rows(slice(at, at + _CALIBRATION_BATCH)).inputs for at in _starts(part)])

    def get_next(self) -> Mapping[str, Array] | None:
        """The next batch; None after the last."""
        return next(self._batches, None)


def _starts(part: Part) -> range:
    return range(0, len(part), _CALIBRATION_BATCH)


def _narrow(tensor: Any, name: str, precision: Precision) -> Any:
    values = numpy_helper.to_array(tensor)
    if precision is Precision.FP16:
        largest = float(np.finfo(np.float16).max)
        return numpy_helper.from_array(values.clip(-largest, largest).astype(np.float16), name)
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # to the nearest, ties to even
    return helper.make_tensor(name, TensorProto.BFLOAT16, tensor.dims, rounded.tobytes(), raw=True)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def rewritten(model: bytes, write: Callable[[Path, Path], None]) -> bytes:
    """What a tool that works on files makes of a model."""
    with tempfile.TemporaryDirectory(prefix="lepton-onnx-") as folder:
        source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
        source.write_bytes(model)
        write(source, target)
        return target.read_bytes()
