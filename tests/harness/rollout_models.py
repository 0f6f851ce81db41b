"""Model packages to roll out: a good model, well and badly quantised ones of it, and one that can be slowed."""

import hashlib
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from lepton.models import ModelPackage, Signature, Tensor
from lepton.models.package import GOLDEN, ONNX

CLASSES = 10
FEATURES = 64
WEIGHTS = np.random.default_rng(11).normal(size=(FEATURES, CLASSES)).astype(np.float32)
SIGNATURE = Signature(
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1, FEATURES)),),
    outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, CLASSES)),),
)
SLOW = 1200.0
"""The value of a request's first feature with which the model that can be slowed is slow; the others do not mind it."""


def rows(count: int, seed: int = 0) -> Any:
    """Inputs, float32[count, FEATURES]; none of them slows anything."""
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def answers(x: Any) -> Any:
    """What the good model answers, float32[rows, CLASSES]."""
    return x @ WEIGHTS


def good(shift: float = 0.0) -> bytes:
    """logits = x W + shift: another package for every shift, and always the same labels."""
    return _model(
        [helper.make_node("MatMul", ["x", "w"], ["scores"]), helper.make_node("Add", ["scores", "shift"], ["logits"])],
        {"w": WEIGHTS, "shift": np.float32(shift).reshape(1)},
    )


def quantised(*, broken: bool = False) -> bytes:
    """The weights as INT8, a scale per class; `broken`: the scales are four times too small, so large weights wrap."""
    scale = (np.abs(WEIGHTS).max(axis=0) / 127 / (4 if broken else 1)).astype(np.float32)
    stored = np.round(WEIGHTS / scale).astype(np.int64).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wide"], axis=1),
        helper.make_node("MatMul", ["x", "wide"], ["logits"]),
    ]
    return _model(nodes, {"w": stored, "scale": scale, "zero": np.zeros(CLASSES, np.int8)})


def can_be_slowed() -> bytes:
    """The good model's answers, after as many needless products of 256 x 256 as the first feature says."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("MatMul", ["work", "square"], ["worked"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("work", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("worked", TensorProto.FLOAT, [256, 256]),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["column"], axis=1),
        helper.make_node("ReduceMax", ["column"], ["largest"], keepdims=0),
        helper.make_node("Clip", ["largest", "none", "most"], ["bounded"]),
        helper.make_node("Cast", ["bounded"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "true", "start"], ["end"], body=body),
        helper.make_node("ReduceSum", ["end"], ["needless"], keepdims=0),
        helper.make_node("Mul", ["needless", "nought"], ["nothing"]),
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Add", ["scores", "nothing"], ["logits"]),
    ]
    constants = {
        "w": WEIGHTS,
        "first": np.int64([0]),  # type: ignore[call-overload]
        "none": np.float32(0),
        "most": np.float32(2000),
        "true": np.bool_(True),
        "start": np.zeros((256, 256), np.float32),
        "square": np.eye(256, dtype=np.float32),
        "nought": np.float32(0),
    }
    return _model(nodes, constants)


def package(onnx: bytes, store: dict[str, bytes], *, samples: int = 64) -> bytes:
    """A package of an ONNX file, rendered; its files are added to `store` by digest; its labels are those of `good`."""
    x = rows(samples, seed=3)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": x})
    golden = save({"x": x, "logits": np.asarray(logits), "y": answers(x).argmax(axis=1)})
    files = {}
    for name, content in ((ONNX, onnx), (GOLDEN, golden)):
        files[name] = _digest(content)
        store[files[name]] = content
    return ModelPackage(files=files, signature=SIGNATURE, metrics={}, lineage={}).render()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _model(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "rollout",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
