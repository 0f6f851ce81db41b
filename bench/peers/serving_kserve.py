"""The model behind KServe's Python server over gRPC: `python serving_kserve.py MODEL PORT BATCH`.

Runs in a Python with kserve and onnxruntime (requirements-kserve.txt). Its batcher is a program of its own, written in
Go, that comes with the cluster: BATCH is not used.
"""

import socket
import sys
from typing import Any

import onnxruntime
from kserve import (  # type: ignore[import-not-found]
    InferOutput,
    InferRequest,
    InferResponse,
    Model,
    ModelServer,
)

MODEL, PORT = sys.argv[1], int(sys.argv[2])


class Served(Model):  # type: ignore[misc]
    """One session with one thread."""

    def __init__(self) -> None:
        super().__init__("digits")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        (logits,) = self._session.run(None, {"x": payload.inputs[0].as_numpy()})
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    ModelServer(http_port=_free_port(), grpc_port=PORT, workers=1, enable_grpc=True, access_log_format=None).start(
        [Served()]
    )
