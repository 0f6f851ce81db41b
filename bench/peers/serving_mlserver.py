"""The model behind MLServer over gRPC: `python serving_mlserver.py MODEL PORT BATCH`; no worker processes.

Runs in a Python with mlserver and onnxruntime (requirements-mlserver.txt). BATCH above 1 is its adaptive batching.
"""

import asyncio
import socket
import sys
from typing import Any

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

MODEL, PORT, BATCH = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Served(MLModel):  # type: ignore[misc]
    """One session with one thread."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x: Any = NumpyCodec.decode_input(payload.inputs[0])
        (logits,) = self._session.run(None, {"x": x})
        output = NumpyCodec.encode_output("logits", logits)
        return InferenceResponse(model_name=self.name, outputs=[output])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def main() -> None:
    settings = Settings(
        host="127.0.0.1",
        grpc_port=PORT,
        http_port=_free_port(),
        metrics_port=_free_port(),
        parallel_workers=0,
        debug=False,
        metrics_endpoint=None,
    )
    batching = {"max_batch_size": BATCH, "max_batch_time": 0.0005} if BATCH > 1 else {}
    model = ModelSettings(name="digits", implementation=Served, **batching)
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
