"""The models that `bench.gateway` calls: images of 1 KB, a request has one of them or a hundred."""

from typing import Any, Final

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save
from tritonclient.grpc import service_pb2

from lepton.golden import Golden
from lepton.models import Signature, Tensor
from services.agent.served_model import ServedModel
from services.inference.triton_repository import CONFIG, ServingOptions, render

SHAPE: Final = (1, 16, 16)
KINDS: Final = ("cnn", "linear")
_SIGNATURE: Final = Signature(
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1, *SHAPE)),),
    outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 10)),),
)


def served(name: str, kind: str) -> ServedModel:
    """A model as an agent gets it: `cnn`, 1.2 million multiplications an image, or `linear`, next to nothing."""
    weights = _weights()
    files = render(
        name, _cnn(weights) if kind == "cnn" else _linear(weights), _SIGNATURE, ServingOptions(max_batch=128)
    )
    return ServedModel(name=name, files=dict(files), golden=_golden(kind, files[CONFIG].decode()))


def request(name: str, images: int) -> bytes:
    """A ModelInfer with so many KB of images, as one gRPC message with its prefix."""
    x = np.random.default_rng(0).normal(size=(images, *SHAPE)).astype(np.float32)
    message = service_pb2.ModelInferRequest(model_name=name, raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    body = bytes(message.SerializeToString())
    return b"\0" + len(body).to_bytes(4) + body


def _golden(kind: str, config: str) -> Golden:
    x = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)
    model = _cnn(_weights()) if kind == "cnn" else _linear(_weights())
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"x": x})[0]
    return Golden.parse(save({"x": x, "logits": logits, "y": logits.argmax(axis=1)}), config)


def _weights() -> dict[str, Any]:
    draw = np.random.default_rng(7)
    shapes = {"w1": (16, 1, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 10), "w": (256, 10)}
    return {
        name: (draw.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }


def _cnn(weights: dict[str, Any]) -> bytes:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w3"], ["logits"]),
    ]
    return _model(nodes, weights, "w1", "w2", "w3")


def _linear(weights: dict[str, Any]) -> bytes:
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    return _model(nodes, weights, "w")


def _model(nodes: list[Any], weights: dict[str, Any], *used: str) -> bytes:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights[name], name) for name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
