"""The model that every server of `bench.serving` serves: a small convolutional network for images of 8 x 8, as ONNX."""

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 8, 8)
CLASSES = 10


def network(seed: int = 7) -> bytes:
    """Two convolutions, one pooling, one dense layer: about 29,000 parameters, 0.3 million multiplications an image."""
    draw = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> Any:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((draw.normal(size=shape) * scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [weights("w1", 16, 1, 3, 3), weights("w2", 32, 16, 3, 3), weights("w3", CLASSES, 512)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def image(seed: int = 0) -> Any:
    """One input, `(1, 1, 8, 8)` float32."""
    return np.random.default_rng(seed).normal(size=(1, *SHAPE)).astype(np.float32)


def logits(seed: int = 0) -> Any:
    """What the network answers to `image(seed)`, `(1, 10)` float32, by onnxruntime in this process."""
    session = onnxruntime.InferenceSession(network(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image(seed)})[0]
