"""The model behind LitServe: `python serving_litserve.py MODEL PORT BATCH`; JSON with base64 in, and out.

Runs in a Python with litserve and onnxruntime (requirements-litserve.txt).
"""

import base64
import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
import onnxruntime

MODEL, PORT, BATCH = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Served(litserve.LitAPI):  # type: ignore[misc]
    """One session with one thread in one worker process."""

    def setup(self, device: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, str]) -> Any:
        return np.frombuffer(base64.b64decode(request["x"]), np.float32).reshape(1, 8, 8)

    def predict(self, x: Any) -> Any:
        return self._session.run(None, {"x": x if BATCH > 1 else x[None]})[0]

    def encode_response(self, output: Any) -> Any:
        return {"logits": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    batching = {"max_batch_size": BATCH, "batch_timeout": 0.0005} if BATCH > 1 else {}
    server = litserve.LitServer(
        Served(**batching), accelerator="cpu", workers_per_device=1, timeout=60, fast_queue=True
    )
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, num_api_servers=1, log_level="error")
